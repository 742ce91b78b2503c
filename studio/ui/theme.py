"""The studio's own theme: neutral greys so that colour can be judged, and one accent."""

from __future__ import annotations

from types import MappingProxyType

from gradio.themes import Base, Color, Size
from gradio.themes.utils.fonts import Font, LocalFont

# Greys of equal red, green and blue: anything else would tint the pictures beside it.
GREY = Color(
    c50="#fafafa", c100="#f2f2f2", c200="#e4e4e4", c300="#cfcfcf", c400="#a3a3a3", c500="#757575",
    c600="#565656", c700="#3d3d3d", c800="#262626", c900="#191919", c950="#101010", name="grey",
)  # fmt: skip
VERMILION = Color(
    c50="#fdf3ef", c100="#fae3da", c200="#f4c4b2", c300="#eca085", c400="#e57b57", c500="#d65f39",
    c600="#b84a28", c700="#963b20", c800="#75301c", c900="#5c2919", c950="#32130a",
    name="vermilion",
)  # fmt: skip
TEXT = Size(
    xxs="10px", xs="11.5px", sm="12.5px", md="13.5px", lg="15px", xl="19px", xxl="24px", name="text"
)

# name -> (light, dark)
SURFACES = MappingProxyType(
    {
        "body_background_fill": ("#faf9f7", "#101010"),
        "body_text_color": ("#1c1b1a", "#ececec"),
        "body_text_color_subdued": ("#6b6966", "#9a9a9a"),
        "background_fill_primary": ("#ffffff", "#191919"),
        "background_fill_secondary": ("#f3f2ef", "#141414"),
        "border_color_primary": ("#e2e0dc", "#2b2b2b"),
        "border_color_accent": ("*primary_600", "*primary_400"),
        "color_accent_soft": ("*primary_50", "#2a1d18"),
        "block_background_fill": ("transparent", "transparent"),
        "block_border_color": ("transparent", "transparent"),
        "block_border_width": ("0px", "0px"),
        "block_shadow": ("none", "none"),
        "block_label_background_fill": ("transparent", "transparent"),
        "block_label_border_width": ("0px", "0px"),
        "block_label_text_color": ("#57554f", "#b0b0b0"),
        "block_title_text_color": ("#57554f", "#b0b0b0"),
        "block_info_text_color": ("#7a7772", "#868686"),
        "panel_background_fill": ("transparent", "transparent"),
        "panel_border_width": ("0px", "0px"),
        "input_background_fill": ("#ffffff", "#1b1b1b"),
        "input_background_fill_focus": ("#ffffff", "#1e1e1e"),
        "input_border_color": ("#d9d6d1", "#333333"),
        "input_border_color_focus": ("*primary_500", "*primary_400"),
        "input_placeholder_color": ("#a19d96", "#6a6a6a"),
        "input_shadow": ("none", "none"),
        "input_shadow_focus": ("0 0 0 2px #d65f3933", "0 0 0 2px #e57b5733"),
        "slider_color": ("*primary_600", "*primary_400"),
        "loader_color": ("*primary_600", "*primary_400"),
        "checkbox_background_color_selected": ("*primary_600", "*primary_500"),
        "checkbox_border_color_selected": ("*primary_600", "*primary_500"),
        "checkbox_border_color_focus": ("*primary_500", "*primary_400"),
        "checkbox_label_background_fill": ("#ffffff", "#1b1b1b"),
        "checkbox_label_background_fill_hover": ("#f3f2ef", "#232323"),
        "checkbox_label_background_fill_selected": ("*primary_50", "#2a1d18"),
        "checkbox_label_border_color": ("#d9d6d1", "#333333"),
        "checkbox_label_border_color_selected": ("*primary_500", "*primary_400"),
        "checkbox_label_border_width": ("1px", "1px"),
        "checkbox_label_shadow": ("none", "none"),
        "checkbox_label_text_color_selected": ("*primary_800", "*primary_200"),
        "button_primary_background_fill": ("*primary_600", "*primary_400"),
        "button_primary_background_fill_hover": ("*primary_700", "*primary_300"),
        "button_primary_text_color": ("#ffffff", "#1a0d08"),
        "button_primary_border_color": ("transparent", "transparent"),
        "button_primary_shadow": ("none", "none"),
        "button_secondary_background_fill": ("#ffffff", "#1f1f1f"),
        "button_secondary_background_fill_hover": ("#f3f2ef", "#2a2a2a"),
        "button_secondary_text_color": ("#34322f", "#d6d6d6"),
        "button_secondary_border_color": ("#d9d6d1", "#363636"),
        "button_secondary_shadow": ("none", "none"),
        "error_background_fill": ("#fdf3ef", "#241813"),
        "error_border_color": ("*primary_300", "*primary_800"),
        "error_text_color": ("*primary_800", "*primary_200"),
    }
)
MEASURES = MappingProxyType(
    {
        "block_padding": "0px",
        "block_radius": "6px",
        "block_label_padding": "0 0 4px 0",
        "block_label_text_size": "*text_sm",
        "block_label_text_weight": "500",
        "block_title_text_size": "*text_sm",
        "block_title_text_weight": "500",
        "block_title_padding": "0",
        "block_info_text_size": "*text_xs",
        "button_border_width": "1px",
        "button_large_radius": "6px",
        "button_small_radius": "5px",
        "button_medium_radius": "6px",
        "button_large_text_weight": "600",
        "button_transition": "background 90ms ease, border-color 90ms ease",
        "checkbox_label_padding": "5px 10px",
        "checkbox_label_gap": "6px",
        "checkbox_label_text_size": "*text_sm",
        "container_radius": "6px",
        "form_gap_width": "0px",
        "input_border_width": "1px",
        "input_padding": "8px 10px",
        "input_radius": "6px",
        "input_text_size": "*text_md",
        "layout_gap": "12px",
    }
)


def easel_theme() -> Base:
    """Return the theme; nearly black in dark, warm white in light, no tinted panels."""
    theme = Base(
        primary_hue=VERMILION,
        secondary_hue=GREY,
        neutral_hue=GREY,
        text_size=TEXT,
        font=(
            LocalFont("IBM Plex Sans", weights=(400, 700)),
            Font("system-ui"),
            Font("sans-serif"),
        ),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400,)), Font("monospace")),
    )
    values = dict(MEASURES)
    for name, (light, dark) in SURFACES.items():
        values[name], values[f"{name}_dark"] = light, dark
    return theme.set(**values)
