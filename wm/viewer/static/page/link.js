// A moment as the part of an address after `#`: `#dream=2&frame=37&speed=0.5&mode=ghost&view=stage`.

import { SPEEDS } from "./playback.js";

/** @typedef {import("./types.js").Mode} Mode */
/** @typedef {{ dream: number, frame: number, speed: number, mode: Mode, view: "close" | "stage" }} Moment
 *   dream from 1; frame relative to the first imagined one */

export const MODES = /** @type {Mode[]} */ (["both", "ghost", "truth", "dream"]);

/** @param {Moment} moment @returns {string} */
export function linkOf({ dream, frame, speed, mode, view }) {
  return `#dream=${dream}&frame=${frame}&speed=${speed}&mode=${mode}&view=${view}`;
}

/** What of a moment a link tells; anything else is left out. @param {string} hash @returns {Partial<Moment>} */
export function momentOf(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  /** @type {Partial<Moment>} */
  const moment = {};
  const dream = Number(values.get("dream") ?? NaN), frame = Number(values.get("frame") ?? NaN);
  const speed = Number(values.get("speed")), mode = /** @type {Mode} */ (values.get("mode"));
  const view = values.get("view");
  if (Number.isInteger(dream) && dream >= 1) moment.dream = dream;
  if (Number.isInteger(frame)) moment.frame = frame;
  if (SPEEDS.includes(speed)) moment.speed = speed;
  if (MODES.includes(mode)) moment.mode = mode;
  if (view === "close" || view === "stage") moment.view = view;
  return moment;
}
