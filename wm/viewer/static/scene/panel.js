// Draws one panel: the stage, the fighters of the truth, of a dream or of both, their paths and their percent.

import { drawFighter } from "../figure/fighter.js";
import { LAST_ABSENT } from "../page/actions.js";
import { alpha } from "../page/colors.js";
import { viewOf } from "./camera.js";
import { drawStage } from "./stage.js";

/** @typedef {import("../page/data.js").Dream} Dream */
/** @typedef {import("../page/types.js").Theme} Theme */
/** @typedef {import("../page/types.js").View} View */
/** @typedef {import("../page/types.js").Platform} Platform */
/** @typedef {"truth" | "dream"} Which */

const layer = document.createElement("canvas");
const PATH_FRAMES = 45;
const SHIELD_BUTTONS = 0x60; // L and R

/**
 * @param {CanvasRenderingContext2D} ctx scaled to CSS pixels
 * @param {{ dream: Dream, frame: number, solid: Which, ghost: Which | null, box: import("./camera.js").Box,
 *   platforms: Platform[], theme: Theme, width: number, height: number, title: string }} scene
 */
export function drawPanel(ctx, scene) {
  const { dream, frame, solid, ghost, theme, width, height } = scene;
  const view = viewOf(scene.box, width, height), pixel = 1 / view.scale;
  const sky = ctx.createLinearGradient(0, 0, 0, height);
  sky.addColorStop(0, theme.panel);
  sky.addColorStop(1, theme.page);
  ctx.fillStyle = sky;
  ctx.fillRect(0, 0, width, height);
  ctx.save();
  ctx.translate(width / 2, height / 2);
  ctx.scale(view.scale, -view.scale);
  ctx.translate(-view.x, -view.y);
  drawStage(ctx, dream, scene.platforms, theme, pixel);
  if (ghost) for (const player of [0, 1]) drawPath(ctx, dream, ghost, frame, player, theme, pixel, true);
  for (const player of [0, 1]) drawPath(ctx, dream, solid, frame, player, theme, pixel, false);
  if (ghost && frame >= dream.numContext) for (const player of [0, 1]) drawDistance(ctx, dream, frame, player, theme, pixel);
  if (ghost && frame >= dream.numContext) drawGhosts(ctx, dream, ghost, frame, theme, pixel);
  for (const player of [0, 1]) draw(ctx, dream, solid, frame, player, theme, pixel, false);
  ctx.restore();
  for (const player of [0, 1]) drawTag(ctx, dream, solid, frame, player, theme, view);
  drawTitle(ctx, scene);
  for (const player of [0, 1]) drawPercent(ctx, scene, player);
}

/** @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Which} which @param {number} frame
 * @param {number} player @param {Theme} theme @param {number} pixel @param {boolean} isGhost */
function draw(ctx, dream, which, frame, player, theme, pixel, isGhost) {
  const controller = dream.controller(frame, player);
  const shield = controller.buttons & SHIELD_BUTTONS ? 1 : controller.trigger;
  drawFighter(ctx, dream.fighter(which, frame, player), {
    color: isGhost ? theme.ghosts[player] : theme.players[player], theme, isGhost, pixel, shield, blast: dream.stage.blast,
    ledge: dream.stage.floor[0]?.[1] ?? 0,
  });
}

/** Both ghosts as one translucent layer. @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Which} which
 * @param {number} frame @param {Theme} theme @param {number} pixel */
function drawGhosts(ctx, dream, which, frame, theme, pixel) {
  layer.width = ctx.canvas.width; // which also clears it
  layer.height = ctx.canvas.height;
  const on = /** @type {CanvasRenderingContext2D} */ (layer.getContext("2d"));
  on.setTransform(ctx.getTransform());
  for (const player of [0, 1]) draw(on, dream, which, frame, player, theme, pixel, true);
  ctx.save();
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.globalAlpha = theme.dark ? 0.5 : 0.6;
  ctx.drawImage(layer, 0, 0);
  ctx.restore();
}

/** Where a player was. @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {Which} which @param {number} frame
 * @param {number} player @param {Theme} theme @param {number} pixel @param {boolean} isGhost */
function drawPath(ctx, dream, which, frame, player, theme, pixel, isGhost) {
  ctx.lineWidth = (isGhost ? 1.6 : 2.2) * pixel;
  ctx.lineCap = "round";
  ctx.setLineDash(isGhost ? [3 * pixel, 4 * pixel] : []);
  const color = isGhost ? theme.ghosts[player] : theme.players[player];
  for (let at = Math.max(1, frame - PATH_FRAMES); at <= frame; at++) {
    if (dream.value(which, "action", at, player) <= 12) continue;
    ctx.strokeStyle = alpha(color, 0.55 * (1 - (frame - at) / PATH_FRAMES) ** 1.5);
    ctx.beginPath();
    ctx.moveTo(dream.value(which, "x", at - 1, player), dream.value(which, "y", at - 1, player) + 4);
    ctx.lineTo(dream.value(which, "x", at, player), dream.value(which, "y", at, player) + 4);
    ctx.stroke();
  }
  ctx.setLineDash([]);
}

/** A line from the truth to the dream. @param {CanvasRenderingContext2D} ctx @param {Dream} dream @param {number} frame
 * @param {number} player @param {Theme} theme @param {number} pixel */
function drawDistance(ctx, dream, frame, player, theme, pixel) {
  const a = dream.fighter("truth", frame, player), b = dream.fighter("dream", frame, player);
  if (a.action <= LAST_ABSENT || b.action <= LAST_ABSENT || Math.hypot(a.x - b.x, a.y - b.y) < 3) return;
  ctx.strokeStyle = alpha(theme.accent, 0.7);
  ctx.lineWidth = 1.2 * pixel;
  ctx.setLineDash([2 * pixel, 3 * pixel]);
  ctx.beginPath();
  ctx.moveTo(a.x, a.y + 7);
  ctx.lineTo(b.x, b.y + 7);
  ctx.stroke();
  ctx.setLineDash([]);
}

/** "P1" over a fighter, or at the edge towards one that is out of view. @param {CanvasRenderingContext2D} ctx @param {Dream} dream
 * @param {Which} which @param {number} frame @param {number} player @param {Theme} theme @param {View} view */
function drawTag(ctx, dream, which, frame, player, theme, view) {
  const { x, y, action } = dream.fighter(which, frame, player);
  if (action <= LAST_ABSENT) return;
  const left = (x - view.x) * view.scale + view.width / 2, top = view.height / 2 - (y + 25 - view.y) * view.scale;
  const at = { x: Math.max(16, Math.min(view.width - 16, left)), y: Math.max(34, Math.min(view.height - 64, top)) };
  ctx.font = "700 11px system-ui, sans-serif";
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = alpha(theme.players[player], 0.95);
  ctx.fillText(`P${player + 1}`, at.x, at.y);
  ctx.beginPath();
  ctx.moveTo(at.x - 4, at.y + 7);
  ctx.lineTo(at.x + 4, at.y + 7);
  ctx.lineTo(at.x, at.y + 11);
  ctx.fill();
}

/** @param {CanvasRenderingContext2D} ctx @param {Parameters<typeof drawPanel>[1]} scene */
function drawTitle(ctx, { title, theme, dream, frame, solid }) {
  const observed = frame < dream.numContext;
  ctx.font = "700 12px system-ui, sans-serif";
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  const text = title.toUpperCase(), width = ctx.measureText(text).width + 18;
  ctx.fillStyle = solid === "dream" ? theme.accent : theme.muted;
  ctx.beginPath();
  ctx.roundRect(10, 10, width, 22, 11);
  ctx.fill();
  ctx.fillStyle = theme.dark ? "#10141b" : "#ffffff";
  ctx.fillText(text, 19, 21.5);
  if (observed && solid === "dream") {
    ctx.font = "12px system-ui, sans-serif";
    ctx.fillStyle = theme.muted;
    ctx.fillText("observes the truth", 18 + width, 21.5);
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {Parameters<typeof drawPanel>[1]} scene @param {number} player */
function drawPercent(ctx, { dream, frame, solid, theme, width, height }, player) {
  const { percent, stocks } = dream.fighter(solid, frame, player);
  const x = width * (player ? 0.72 : 0.28), y = height - 22;
  ctx.textAlign = "center";
  ctx.textBaseline = "alphabetic";
  ctx.font = `italic 800 ${Math.max(18, Math.min(27, height * 0.09))}px system-ui, sans-serif`;
  ctx.lineWidth = 4;
  ctx.lineJoin = "round";
  ctx.strokeStyle = alpha(theme.panel, 0.9);
  const text = `${Math.round(percent)}%`;
  ctx.strokeText(text, x, y);
  ctx.fillStyle = percentColor(percent, theme);
  ctx.fillText(text, x, y);
  for (let stock = 0; stock < 4; stock++) {
    ctx.beginPath();
    ctx.arc(x + (stock - 1.5) * 13, y + 11, 4, 0, 2 * Math.PI);
    ctx.fillStyle = stock < stocks ? theme.players[player] : alpha(theme.muted, 0.25);
    ctx.fill();
  }
}

/** @param {number} percent @param {Theme} theme @returns {string} from the text's color to dark red, as damage grows */
function percentColor(percent, theme) {
  const share = Math.min(1, percent / 150);
  return theme.dark ? `hsl(${40 - 40 * share} ${100 * Math.min(1, share * 3)}% ${94 - 40 * share}%)` : `hsl(${20 - 20 * share} ${90 * Math.min(1, share * 3)}% ${14 + 26 * share}%)`;
}
