// The part of the stage that a view shows: the same for the truth and the dream, and a function of the frame alone.

import { LAST_ABSENT } from "../page/actions.js";

/** @typedef {import("../page/data.js").Dream} Dream */
/** @typedef {import("../page/types.js").View} View */
/** @typedef {{ x: number, y: number, width: number, height: number }} Box centre and size, game units */

const MARGIN = { x: 22, below: 17, above: 28 };
const MIN_WIDTH = 84, MIN_HEIGHT = 52;
const AHEAD = 22, SMOOTHING = 20; // frames
const SHOWN_AFTER_DEATH = 40; // frames
const DEFAULT_ZONE = /** @type {const} */ ([-250, 250, -150, 220]);

/** @param {Dream} dream @returns {Box[]} by frame: what both fighters of both tracks need */
export function cameraBoxes(dream) {
  const [left, right, low, high] = dream.stage.blast ?? DEFAULT_ZONE;
  const needed = Array.from({ length: dream.length }, (_, frame) => {
    const box = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
    for (const which of /** @type {const} */ (["truth", "dream"])) {
      for (const player of [0, 1]) {
        if (dream.value(which, "action", frame, player) <= LAST_ABSENT && dream.ages[which][player][frame] > SHOWN_AFTER_DEATH) continue;
        const x = clamp(dream.value(which, "x", frame, player), left, right);
        const y = clamp(dream.value(which, "y", frame, player), low, high);
        box.x0 = Math.min(box.x0, x - MARGIN.x);
        box.x1 = Math.max(box.x1, x + MARGIN.x);
        box.y0 = Math.min(box.y0, y - MARGIN.below);
        box.y1 = Math.max(box.y1, y + MARGIN.above);
      }
    }
    return box.x0 < Infinity ? box : { x0: left / 2, x1: right / 2, y0: -40, y1: 80 };
  });
  const wide = needed.map((_, frame) => {
    const part = needed.slice(Math.max(0, frame - AHEAD), frame + AHEAD + 1);
    return {
      x0: Math.min(...part.map((box) => box.x0)), x1: Math.max(...part.map((box) => box.x1)),
      y0: Math.min(...part.map((box) => box.y0)), y1: Math.max(...part.map((box) => box.y1)),
    };
  });
  return wide.map((_, frame) => {
    const part = wide.slice(Math.max(0, frame - SMOOTHING), frame + SMOOTHING + 1);
    const mean = (/** @type {"x0" | "x1" | "y0" | "y1"} */ side) => part.reduce((sum, box) => sum + box[side], 0) / part.length;
    const [x0, x1, y0, y1] = [mean("x0"), mean("x1"), mean("y0"), mean("y1")];
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, width: Math.max(MIN_WIDTH, x1 - x0), height: Math.max(MIN_HEIGHT, y1 - y0) };
  });
}

/** @param {Dream} dream @returns {Box} the blast zones with a margin */
export function wholeStage(dream) {
  const [left, right, low, high] = dream.stage.blast ?? DEFAULT_ZONE;
  return { x: (left + right) / 2, y: (low + high) / 2, width: (right - left) * 1.06, height: (high - low) * 1.08 };
}

/** @param {Box} box @param {number} width pixels @param {number} height @returns {View} */
export function viewOf(box, width, height) {
  return { width, height, scale: Math.min(width / box.width, height / box.height), x: box.x, y: box.y };
}

/** @param {number} value @param {number} low @param {number} high */
function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}
