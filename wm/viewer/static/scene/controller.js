// Draws a controller: both sticks in their gates, the triggers and the buttons.

import { alpha } from "../page/colors.js";

/** @typedef {import("../page/types.js").Controller} Controller */
/** @typedef {import("../page/types.js").Theme} Theme */

export const CONTROLLER_SIZE = { width: 172, height: 92 };
const BUTTON = { left: 0x1, right: 0x2, down: 0x4, up: 0x8, z: 0x10, r: 0x20, l: 0x40, a: 0x100, b: 0x200, x: 0x400, y: 0x800, start: 0x1000 };
const C_YELLOW = "#f2c230";

/** @param {CanvasRenderingContext2D} ctx scaled to CSS pixels @param {Controller} controller @param {Theme} theme
 * @param {string} color of the player */
export function drawController(ctx, controller, theme, color) {
  ctx.clearRect(0, 0, CONTROLLER_SIZE.width, CONTROLLER_SIZE.height);
  const held = (/** @type {number} */ bit) => (controller.buttons & bit) !== 0;
  const analog = held(BUTTON.r) ? 0 : controller.trigger; // the larger one of both, which a button presses to its end
  trigger(ctx, 8, "L", held(BUTTON.l) ? 1 : analog, held(BUTTON.l), theme, color);
  trigger(ctx, 118, "R", held(BUTTON.r) ? 1 : 0, held(BUTTON.r), theme, color);
  stick(ctx, 31, 56, 25, controller.mainX, controller.mainY, theme, color);
  stick(ctx, 86, 66, 18, controller.cX, controller.cY, theme, C_YELLOW);
  const buttons = /** @type {[string, number, number, number, number, string][]} */ ([
    ["A", BUTTON.a, 138, 54, 12.5, "#2fb58d"], ["B", BUTTON.b, 118, 69, 8.5, "#e5484d"], ["X", BUTTON.x, 159, 47, 8, theme.muted],
    ["Y", BUTTON.y, 131, 33, 8, theme.muted], ["Z", BUTTON.z, 154, 27, 6.5, "#8b6fd6"],
  ]);
  for (const [name, bit, x, y, r, fill] of buttons) button(ctx, name, x, y, r, held(bit), fill, theme);
}

/** @param {CanvasRenderingContext2D} ctx @param {number} x @param {string} name @param {number} pressure @param {boolean} digital
 * @param {Theme} theme @param {string} color */
function trigger(ctx, x, name, pressure, digital, theme, color) {
  const width = 46, height = 9, top = 6;
  ctx.fillStyle = alpha(theme.muted, 0.2);
  ctx.beginPath();
  ctx.roundRect(x, top, width, height, 4.5);
  ctx.fill();
  if (pressure > 0) {
    ctx.fillStyle = digital ? color : alpha(color, 0.65);
    ctx.beginPath();
    ctx.roundRect(x, top, Math.max(height, width * Math.min(1, pressure)), height, 4.5);
    ctx.fill();
  }
  label(ctx, name, x + width / 2, top + height / 2 + 0.5, digital ? "#ffffff" : theme.muted, 8.5);
}

/** @param {CanvasRenderingContext2D} ctx @param {number} x @param {number} y @param {number} r @param {number} dx
 * @param {number} dy upwards @param {Theme} theme @param {string} color */
function stick(ctx, x, y, r, dx, dy, theme, color) {
  ctx.beginPath();
  for (let i = 0; i < 8; i++) ctx.lineTo(x + r * Math.cos((i * Math.PI) / 4), y + r * Math.sin((i * Math.PI) / 4));
  ctx.closePath();
  ctx.fillStyle = alpha(theme.muted, 0.13);
  ctx.fill();
  ctx.strokeStyle = alpha(theme.muted, 0.45);
  ctx.lineWidth = 1;
  ctx.stroke();
  const tipX = x + dx * r * 0.86, tipY = y - dy * r * 0.86, isMoved = Math.hypot(dx, dy) > 0.05;
  ctx.strokeStyle = alpha(color, 0.8);
  ctx.lineWidth = 2;
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(tipX, tipY);
  ctx.stroke();
  ctx.beginPath();
  ctx.arc(tipX, tipY, r * 0.42, 0, 2 * Math.PI);
  ctx.fillStyle = isMoved ? color : alpha(theme.muted, 0.6);
  ctx.fill();
}

/** @param {CanvasRenderingContext2D} ctx @param {string} name @param {number} x @param {number} y @param {number} r
 * @param {boolean} held @param {string} fill @param {Theme} theme */
function button(ctx, name, x, y, r, held, fill, theme) {
  ctx.beginPath();
  ctx.arc(x, y, r, 0, 2 * Math.PI);
  ctx.fillStyle = held ? fill : alpha(theme.muted, 0.12);
  ctx.fill();
  ctx.strokeStyle = held ? fill : alpha(theme.muted, 0.45);
  ctx.lineWidth = 1;
  ctx.stroke();
  label(ctx, name, x, y + 0.5, held ? "#ffffff" : theme.muted, Math.max(7.5, r * 0.95));
}

/** @param {CanvasRenderingContext2D} ctx @param {string} text @param {number} x @param {number} y @param {string} color
 * @param {number} size */
function label(ctx, text, x, y, color, size) {
  ctx.font = `600 ${size}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = color;
  ctx.fillText(text, x, y);
}
