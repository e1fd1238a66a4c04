// Colors of the canvases, by theme.

/** @typedef {import("./types.js").Theme} Theme */

/** @type {Theme} */
const DARK = {
  dark: true, page: "#0c1016", panel: "#111722", text: "#e8eef7", muted: "#8d9bb0", grid: "#1a2230",
  stage: "#2b3548", stageTop: "#aebdd6", stageLine: "#46546d", blast: "#5b3d4a", platform: "#8ea0bd",
  players: ["#ff5d5d", "#4aa8ff"], ghosts: ["#f0b4ae", "#b3d2f0"], flash: "#fff2c4", shadow: "#06080c", outline: "#06080c",
  accent: "#ffc64b",
  categories: {
    move: "#3b475b", crouch: "#63765a", jump: "#5f86a8", air: "#48698a", land: "#8d8599", attack: "#ff9c43", special: "#b48cff",
    grab: "#33c7b5", shield: "#59c86b", dodge: "#8fe0e8", hit: "#f2495f", grabbed: "#c23f88", down: "#8a6a52", tech: "#c3b091",
    ledge: "#f2d54a", rebirth: "#d7dfec", dead: "#6d1523",
  },
};

/** @type {Theme} */
const LIGHT = {
  dark: false, page: "#f3f5f9", panel: "#ffffff", text: "#161c26", muted: "#5d6a7e", grid: "#e9edf4",
  stage: "#c3cddd", stageTop: "#46536a", stageLine: "#9aa7bd", blast: "#e3b3b8", platform: "#5c6a84",
  players: ["#d2333a", "#1b71c9"], ghosts: ["#e9b0b0", "#a9c8ea"], flash: "#ffb400", shadow: "#1a2233", outline: "#1b2433",
  accent: "#a05f00",
  categories: {
    move: "#c9d1de", crouch: "#a3b995", jump: "#8fb6d8", air: "#aecbe4", land: "#b9aec4", attack: "#f0822a", special: "#8f5fe0",
    grab: "#17a594", shield: "#37a94b", dodge: "#5cc2cc", hit: "#dc2f49", grabbed: "#b02f77", down: "#8a6a52", tech: "#b39a72",
    ledge: "#e0bb13", rebirth: "#7e8ba0", dead: "#1c222c",
  },
};

/** @param {boolean} dark @returns {Theme} */
export function themeOf(dark) {
  return dark ? DARK : LIGHT;
}

/** @param {string} color `#rrggbb` @param {number} opacity @returns {string} */
export function alpha(color, opacity) {
  return color + Math.round(Math.max(0, Math.min(1, opacity)) * 255).toString(16).padStart(2, "0");
}

/** @param {string} a `#rrggbb` @param {string} b @param {number} share of b @returns {string} */
export function mixed(a, b, share) {
  let color = "#";
  for (const at of [1, 3, 5]) {
    const from = parseInt(a.slice(at, at + 2), 16), to = parseInt(b.slice(at, at + 2), 16);
    color += Math.round(from + (to - from) * share).toString(16).padStart(2, "0");
  }
  return color;
}
