// Draws a stage to scale: main platform, side platforms and blast zones.

import { alpha, mixed } from "../page/colors.js";

/** @typedef {import("../page/data.js").Dream} Dream */
/** @typedef {import("../page/data.js").PageData} PageData */
/** @typedef {import("../page/types.js").Platform} Platform */
/** @typedef {import("../page/types.js").Theme} Theme */

const GRID = 20; // game units

/** @param {Dream} dream @param {number} frame @param {PageData["randall"]} randall @returns {Platform[]} in this frame */
export function platformsAt(dream, frame, randall) {
  const platforms = dream.stage.platforms.map(([left, right, y]) => ({ left, right, y }));
  const heights = dream.platformHeights;
  if (dream.stage.moves === "fountain" && heights) {
    platforms[0].y = heights.left[frame];
    platforms[1].y = heights.right[frame];
  }
  if (dream.stage.moves === "randall") platforms.push(randallAt(dream.gameFrame(frame), randall));
  return platforms;
}

/** The cloud of Yoshi's Story, which goes around the stage. @param {number} gameFrame @param {PageData["randall"]} randall
 * @returns {Platform} */
export function randallAt(gameFrame, { width, period, path }) {
  const first = path[0][0], time = ((((gameFrame - first) % period) + period) % period) + first;
  const next = Math.max(1, path.findIndex(([at]) => at > time));
  const [from, x0, y0] = path[next - 1], [to, x1, y1] = path[next];
  const share = (time - from) / (to - from), left = x0 + (x1 - x0) * share;
  return { left, right: left + width, y: y0 + (y1 - y0) * share };
}

/** @param {CanvasRenderingContext2D} ctx in game units, y upwards @param {Dream} dream @param {Platform[]} platforms
 * @param {Theme} theme @param {number} pixel game units of one pixel */
export function drawStage(ctx, dream, platforms, theme, pixel) {
  const { floor, body, blast } = dream.stage;
  if (blast) drawZone(ctx, blast, theme, pixel);
  const isBehind = (/** @type {Platform} */ platform) => platform.y < 0;
  drawPlatforms(ctx, platforms.filter(isBehind), theme, pixel);
  if (floor.length) {
    const fill = ctx.createLinearGradient(0, 2, 0, Math.max(-60, Math.min(...body.map(([, y]) => y))));
    fill.addColorStop(0, theme.stage);
    fill.addColorStop(1, alpha(mixed(theme.stage, theme.panel, 0.75), 0.85));
    ctx.beginPath();
    for (const [x, y] of [...floor, ...body]) ctx.lineTo(x, y);
    ctx.closePath();
    ctx.fillStyle = fill;
    ctx.fill();
    ctx.strokeStyle = theme.stageLine;
    ctx.lineWidth = pixel;
    ctx.stroke();
    ctx.beginPath();
    for (const [x, y] of floor) ctx.lineTo(x, y - pixel);
    ctx.strokeStyle = theme.stageTop;
    ctx.lineWidth = 2.5 * pixel;
    ctx.lineCap = "round";
    ctx.stroke();
  }
  drawPlatforms(ctx, platforms.filter((platform) => !isBehind(platform)), theme, pixel);
}

/** @param {CanvasRenderingContext2D} ctx @param {Platform[]} platforms @param {Theme} theme @param {number} pixel */
function drawPlatforms(ctx, platforms, theme, pixel) {
  const depth = 1.6; // game units
  for (const { left, right, y } of platforms) {
    ctx.fillStyle = alpha(theme.platform, 0.3);
    ctx.beginPath();
    ctx.roundRect(left, y - depth, right - left, depth, depth / 2);
    ctx.fill();
    ctx.strokeStyle = theme.platform;
    ctx.lineWidth = 2.2 * pixel;
    ctx.beginPath();
    ctx.moveTo(left, y - pixel);
    ctx.lineTo(right, y - pixel);
    ctx.stroke();
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {[number, number, number, number]} blast @param {Theme} theme
 * @param {number} pixel */
function drawZone(ctx, [left, right, low, high], theme, pixel) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(left - 1e4, low - 1e4, right - left + 2e4, high - low + 2e4);
  ctx.rect(left, low, right - left, high - low);
  ctx.fillStyle = alpha(theme.blast, 0.28);
  ctx.fill("evenodd");
  ctx.strokeStyle = theme.blast;
  ctx.lineWidth = 1.5 * pixel;
  ctx.setLineDash([6 * pixel, 5 * pixel]);
  ctx.strokeRect(left, low, right - left, high - low);
  ctx.restore();
  ctx.strokeStyle = theme.grid;
  ctx.lineWidth = pixel;
  ctx.beginPath();
  for (let x = Math.ceil(left / GRID) * GRID; x < right; x += GRID) {
    ctx.moveTo(x, low);
    ctx.lineTo(x, high);
  }
  for (let y = Math.ceil(low / GRID) * GRID; y < high; y += GRID) {
    ctx.moveTo(left, y);
    ctx.lineTo(right, y);
  }
  ctx.stroke();
}
