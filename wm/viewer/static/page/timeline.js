// The time line: position error by frame, and the actions of both players in the truth and in the dream.

import { actionCategory, actionName } from "./actions.js";
import { alpha } from "./colors.js";

/** @typedef {import("./data.js").Dream} Dream */
/** @typedef {import("./types.js").Theme} Theme */

const TOP = 14, CURVE = 62, STRIP = 11, GAP = 3, BETWEEN = 9, BOTTOM = 16, LEFT = 46, RIGHT = 12;
const LABEL = 90; // pixels to the right of the start of a dream that its label needs
export const TIMELINE_HEIGHT = TOP + CURVE + 8 + 4 * STRIP + 2 * GAP + BETWEEN + BOTTOM;

/** @param {Dream} dream @param {number} frame @param {number} width pixels @returns {number} pixels */
function xOf(dream, frame, width) {
  return LEFT + (frame / Math.max(1, dream.length - 1)) * (width - LEFT - RIGHT);
}

/** @param {Dream} dream @param {number} x pixels @param {number} width @returns {number} frame */
export function frameAt(dream, x, width) {
  return Math.max(0, Math.min(dream.length - 1, Math.round(((x - LEFT) / (width - LEFT - RIGHT)) * (dream.length - 1))));
}

/** @param {number} row 0..3: player 0 in truth and dream, player 1 likewise @returns {number} pixels */
function stripTop(row) {
  return TOP + CURVE + 8 + row * (STRIP + GAP) + (row > 1 ? BETWEEN - GAP : 0);
}

/** Everything but the marker. @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Theme} theme
 * @param {number} width */
export function drawTimeline(ctx, dream, theme, width) {
  ctx.clearRect(0, 0, width, TIMELINE_HEIGHT);
  ctx.font = "11px system-ui, sans-serif";
  const start = xOf(dream, dream.numContext, width), bottom = stripTop(3) + STRIP;
  ctx.fillStyle = alpha(theme.muted, 0.1);
  ctx.fillRect(LEFT, TOP, start - LEFT, bottom - TOP);
  drawCurve(ctx, dream, theme, width);
  for (let row = 0; row < 4; row++) drawStrip(ctx, dream, theme, width, row);
  ctx.strokeStyle = theme.accent;
  ctx.lineWidth = 1;
  ctx.setLineDash([3, 3]);
  ctx.beginPath();
  ctx.moveTo(Math.round(start) + 0.5, TOP - 4);
  ctx.lineTo(Math.round(start) + 0.5, bottom);
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.fillStyle = theme.accent;
  const isLate = start > width - LABEL;
  ctx.textAlign = isLate ? "right" : "left";
  ctx.textBaseline = "alphabetic";
  ctx.fillText("dream begins", start + (isLate ? -4 : 4), TOP - 4);
  drawSeconds(ctx, dream, theme, width, bottom);
}

/** @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Theme} theme @param {number} width */
function drawCurve(ctx, dream, theme, width) {
  const highest = Math.max(1, ...dream.data.positionError), shown = Math.min(highest, 1.5 * mostly(dream.data.positionError));
  const step = niceStep(shown / 2), top = Math.ceil(shown / step) * step, base = TOP + CURVE;
  const y = (/** @type {number} */ value) => base - (Math.min(top, value) / top) * CURVE;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (let value = 0; value <= top + 1e-9; value += step) {
    ctx.strokeStyle = theme.grid;
    ctx.lineWidth = 1;
    ctx.beginPath();
    ctx.moveTo(LEFT, Math.round(y(value)) + 0.5);
    ctx.lineTo(width - RIGHT, Math.round(y(value)) + 0.5);
    ctx.stroke();
    ctx.fillStyle = theme.muted;
    ctx.fillText(String(Number(value.toFixed(2))) + (value + step > top + 1e-9 && highest > top ? "+" : ""), LEFT - 6, y(value));
  }
  const curve = new Path2D();
  curve.moveTo(xOf(dream, dream.numContext - 1, width), y(0));
  for (let frame = dream.numContext; frame < dream.length; frame++) curve.lineTo(xOf(dream, frame, width), y(dream.error(frame)));
  const area = new Path2D(curve);
  area.lineTo(xOf(dream, dream.length - 1, width), y(0));
  const fill = ctx.createLinearGradient(0, TOP, 0, base);
  fill.addColorStop(0, alpha(theme.accent, 0.4));
  fill.addColorStop(1, alpha(theme.accent, 0.04));
  ctx.fillStyle = fill;
  ctx.fill(area);
  ctx.strokeStyle = theme.accent;
  ctx.lineWidth = 1.8;
  ctx.lineJoin = "round";
  ctx.stroke(curve);
}

/** @param {number[]} values @returns {number} what 95 % of them are below, at least 1 */
function mostly(values) {
  return Math.max(1, [...values].sort((a, b) => a - b)[Math.floor(values.length * 0.95)]);
}

/** @param {number} value @returns {number} 1, 2 or 5 times a power of ten, not below the value */
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1e-3, value)));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= value - 1e-9) ?? 10);
}

/** @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Theme} theme @param {number} width
 * @param {number} row */
function drawStrip(ctx, dream, theme, width, row) {
  const player = row >> 1, which = row % 2 ? "dream" : "truth", top = stripTop(row);
  if (row % 2 === 0) {
    ctx.fillStyle = theme.players[player];
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    ctx.fillText("truth", LEFT - 6, top + STRIP / 2 + 0.5);
    ctx.fillText("dream", LEFT - 6, top + STRIP + GAP + STRIP / 2 + 0.5);
  }
  let from = 0;
  for (let frame = 1; frame <= dream.length; frame++) {
    const action = dream.value(which, "action", from, player);
    if (frame < dream.length && dream.value(which, "action", frame, player) === action && dream.ages[which][player][frame] > 0) continue;
    const x = Math.max(LEFT, xOf(dream, from - 0.5, width)), end = Math.min(width - RIGHT, xOf(dream, frame - 0.5, width));
    ctx.fillStyle = theme.categories[actionCategory(action)];
    ctx.fillRect(x, top, Math.max(0.8, end - x - (end - x > 2.5 ? 0.8 : 0)), STRIP);
    from = frame;
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Theme} theme @param {number} width
 * @param {number} bottom */
function drawSeconds(ctx, dream, theme, width, bottom) {
  const frames = dream.length - dream.numContext, perLabel = (width - LEFT) / (frames / 60) < 46 ? 2 : 1;
  ctx.fillStyle = theme.muted;
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  for (let second = -1; second * 60 <= frames; second += second < 0 ? 1 : perLabel) {
    const frame = dream.numContext + second * 60;
    if (frame < 0) continue;
    const label = second === 0 ? "0 s" : `${second > 0 ? "+" : "\u2212"}${Math.abs(second)}`;
    ctx.fillText(label, Math.max(LEFT + 4, Math.min(width - RIGHT - 6, xOf(dream, frame, width))), bottom + 4);
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Theme} theme @param {number} width @param {number} frame */
export function drawMarker(ctx, dream, theme, width, frame) {
  ctx.clearRect(0, 0, width, TIMELINE_HEIGHT);
  const x = xOf(dream, frame, width);
  ctx.strokeStyle = theme.text;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.moveTo(x, TOP - 6);
  ctx.lineTo(x, stripTop(3) + STRIP + 2);
  ctx.stroke();
  ctx.fillStyle = theme.text;
  ctx.beginPath();
  ctx.arc(x, TOP - 7, 4, 0, 2 * Math.PI);
  ctx.fill();
}

/** What a pointer shows. @param {Dream} dream @param {number} frame @param {number} y pixels @returns {string} */
export function tipOf(dream, frame, y) {
  const at = `frame ${frame - dream.numContext}`;
  for (let row = 0; row < 4; row++) {
    if (y < stripTop(row) || y > stripTop(row) + STRIP + GAP) continue;
    const which = row % 2 ? "dream" : "truth", player = row >> 1;
    return `${at}: ${actionName(dream.value(which, "action", frame, player))} (P${player + 1}, ${which})`;
  }
  return frame < dream.numContext ? `${at}, observed` : `${at}: ${dream.error(frame).toFixed(2)} units apart`;
}
