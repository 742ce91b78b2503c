// The keys of the voting view, for the two lists of keys.

export const RATING_KEYS = [
  ["← →", "This one is better"], ["↓", "A tie"], ["B", "Both are bad"], ["Space", "Skip: no opinion"],
  ["U", "Undo the last vote"], ["Z", "Hold to zoom both at the same place"], ["Esc", "Leave"],
];
