"""The page's composition root: components, handlers, routes and guards become one served app."""

from __future__ import annotations

import sys
import webbrowser
from threading import Lock, Timer

import gradio as gr
import uvicorn
from fastapi import FastAPI

from studio.core.errors import EaselError
from studio.core.settings import Settings
from studio.services.studio import Studio, open_studio
from studio.services.tokens import TokenCounter
from studio.ui.controls import first_usable, upscalers
from studio.ui.drawing import DrawingHandlers
from studio.ui.edit_routes import add_edit_routes
from studio.ui.endpoint import img2img_endpoint, inpaint_endpoint, txt2img_endpoint
from studio.ui.finetune import build_finetune
from studio.ui.finetune_routes import add_finetune_routes
from studio.ui.form import build_form
from studio.ui.gallery import build_gallery
from studio.ui.header import build_header, offer_new_models
from studio.ui.kept_routes import add_kept_routes
from studio.ui.port import address
from studio.ui.rate import build_rate
from studio.ui.rate_routes import add_rate_routes
from studio.ui.routes import add_routes
from studio.ui.security import LOOPBACK_HOSTS, MAX_UPLOAD, middleware
from studio.ui.tasks import OTHER_TABS, TASKS
from studio.ui.teach import build_teach
from studio.ui.teach_routes import add_teach_routes
from studio.ui.theme import easel_theme
from studio.ui.wiring import wire

HEAD = (
    '<link rel="stylesheet" href="/easel/page/easel.css">'
    '<link rel="stylesheet" href="/easel/page/editing.css">'
    '<link rel="stylesheet" href="/easel/page/rate.css">'
    '<link rel="stylesheet" href="/easel/page/finetune.css">'
    '<link rel="stylesheet" href="/easel/page/teach.css">'
    '<script type="module" src="/easel/page/easel.js"></script>'
)
OTHER_BUILDERS = (
    ("rate", build_rate),
    ("finetune", build_finetune),
    ("teach", build_teach),
    ("gallery", build_gallery),
)
LATEST_WARM_UP = 15.0  # seconds after the start, when no page was opened until then
LAST_ANSWERS = 2  # seconds that open requests get when the studio ends


def run(settings: Settings) -> int:
    """Serve the page until a signal ends it; return the exit code.

    Raises EaselError when it would listen to others without a password.
    """
    if settings.host not in LOOPBACK_HOSTS and not settings.auth:
        raise EaselError(
            f"Listening on {settings.host} lets others in; give --auth user:password as well."
        )
    studio = open_studio(settings)
    try:
        serve(studio, make_app(studio))
    except KeyboardInterrupt:  # uvicorn raises the signal that ended it again
        pass
    finally:
        studio.close()
    return 0


def make_app(studio: Studio) -> FastAPI:
    """Return the app: our routes first, then Gradio's page at '/', behind the guards."""
    settings = studio.settings
    app = FastAPI(middleware=middleware(settings), openapi_url=None, docs_url=None, redoc_url=None)
    begin = WarmUp(studio)
    app.state.warm_up = begin
    add_routes(app, studio)
    add_edit_routes(app, studio)
    add_kept_routes(app, studio)
    add_rate_routes(app, studio)
    add_finetune_routes(app, studio)
    add_teach_routes(app, studio)
    app.post("/easel/ready")(begin.page_is_ready)
    return gr.mount_gradio_app(
        app,
        build_page(studio),
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        app_kwargs={"openapi_url": None},
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[str(settings.data_dir), str(settings.models_dir)],
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=easel_theme(),
        head=HEAD,
    )


def build_page(studio: Studio) -> gr.Blocks:
    """Build the components of all tabs and connect them."""
    entries = studio.models.entries()
    with gr.Blocks(
        title="Easel", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as demo:
        model = build_header(entries)
        offer_new_models(model, studio.models.entries)
        with gr.Tabs(elem_id="easel-tabs") as tabs:
            drawing = {
                name: gr.Tab(task.title, id=name, elem_id=f"easel-tab-{name}")
                for name, task in TASKS.items()
            }
            others = {}
            for name, build in OTHER_BUILDERS:
                with gr.Tab(OTHER_TABS[name], id=name, render_children=True) as others[name]:
                    build()
        form = build_form(model, first_usable(entries), upscalers(studio))
        handlers = DrawingHandlers(studio, form, tabs, TokenCounter(studio.models))
        wire(handlers, demo, drawing, others)
        for draw in (txt2img_endpoint, img2img_endpoint, inpaint_endpoint):
            name = draw.__name__.removesuffix("_endpoint")
            gr.api(draw(studio), api_name=name, concurrency_limit=8)
    demo.queue(default_concurrency_limit=4, max_size=64)
    return demo


class WarmUp:
    """Loads the first model once: when a page stands, or a while after the start without one.

    Importing torch takes seconds and would hold up the page that is just being delivered.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lock = Lock()
        self._begun = False

    def __call__(self) -> None:
        """Begin, unless it was begun before."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        self._studio.warm_up()

    def page_is_ready(self) -> dict[str, bool]:
        """Take the page's word that it is usable now."""
        self()
        return {"warming": True}


class PageServer(uvicorn.Server):
    """Uvicorn that says where the page is once it answers there."""

    def __init__(self, config: uvicorn.Config, url: str, autolaunch: bool) -> None:
        super().__init__(config)
        self.url = url
        self.autolaunch = autolaunch

    async def startup(self, sockets: list | None = None) -> None:
        """Bind the port, then print the line that artists copy."""
        await super().startup(sockets)
        if self.started:
            sys.stdout.write(f"{self.url}\n")
            sys.stdout.flush()
            if self.autolaunch:
                webbrowser.open(self.url)


def serve(studio: Studio, app: FastAPI) -> None:
    """Serve the app until SIGINT or SIGTERM."""
    settings = studio.settings
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
    late = Timer(LATEST_WARM_UP, app.state.warm_up)
    late.daemon = True
    late.start()
    try:
        PageServer(config, address(settings.host, settings.port), settings.autolaunch).run()
    finally:
        late.cancel()
