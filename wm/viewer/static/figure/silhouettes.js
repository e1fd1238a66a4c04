// Silhouettes that the user chooses from a folder of his own; they never become part of the page. docs/viewer.md has the
// format: CHARACTER/ACTION.svg, one path for each frame of the animation.

import { actionCategory, actionName } from "../page/actions.js";

/** @typedef {import("../page/types.js").Fighter} Fighter */

/** @type {Map<string, Path2D[]>} `character/action` in lower case -> one shape for each frame */
const shapes = new Map();

/** Internal character id -> name of its folder. @type {Record<number, string>} */
const FOLDERS = {
  0: "mario", 1: "fox", 2: "captain falcon", 3: "donkey kong", 4: "kirby", 5: "bowser", 6: "link", 7: "sheik", 8: "ness",
  9: "peach", 10: "ice climbers", 11: "ice climbers", 12: "pikachu", 13: "samus", 14: "yoshi", 15: "jigglypuff", 16: "mewtwo",
  17: "luigi", 18: "marth", 19: "zelda", 20: "young link", 21: "dr. mario", 22: "falco", 23: "pichu", 24: "game & watch",
  25: "ganondorf", 26: "roy",
};

/** @param {Fighter} fighter @param {number} frame @returns {Path2D | undefined} facing right, in game units, y downwards */
export function silhouetteOf(fighter, frame) {
  if (!shapes.size) return undefined;
  const folder = FOLDERS[fighter.character];
  for (const name of [actionName(fighter.action), actionCategory(fighter.action)]) {
    const found = shapes.get(`${folder}/${name.toLowerCase()}`);
    if (found) return found[Math.max(0, Math.min(found.length - 1, Math.floor(frame)))];
  }
  return undefined;
}

/** Read SVG files. @param {Iterable<File>} files with `webkitRelativePath` @returns {Promise<number>} how many are used */
export async function loadSilhouettes(files) {
  let used = 0;
  for (const file of files) {
    const [folder, name] = file.webkitRelativePath.split("/").slice(-2);
    if (!name || !/\.svg$/i.test(name)) continue;
    const paths = pathsOf(await file.text());
    if (!paths.length) continue;
    shapes.set(`${folder}/${name.replace(/\.svg$/i, "")}`.toLowerCase(), paths);
    used += 1;
  }
  return used;
}

/** @param {string} svg @returns {Path2D[]} */
function pathsOf(svg) {
  const document = new DOMParser().parseFromString(svg, "image/svg+xml");
  return [...document.querySelectorAll("path[d]")].map((path) => new Path2D(path.getAttribute("d") ?? ""));
}
