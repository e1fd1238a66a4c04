// Draws one fighter with what happens to it: trail of a strike, shield, hitlag, hitstun, invulnerability, death.

import { drawBody } from "./body.js";
import { buildOf } from "./builds.js";
import { animationFrame, animationOf } from "./choice.js";
import { sample } from "./poses.js";
import { silhouetteOf } from "./silhouettes.js";
import { skeleton } from "./skeleton.js";
import { actionCategory, LAST_ABSENT, LAST_DEAD } from "../page/actions.js";
import { alpha, mixed } from "../page/colors.js";

/** @typedef {import("../page/types.js").Fighter} Fighter */
/** @typedef {import("../page/types.js").Theme} Theme */
/** @typedef {import("./builds.js").Build} Build */
/** @typedef {import("./skeleton.js").Point} Point */

/**
 * @typedef {{ color: string, theme: Theme, isGhost: boolean, pixel: number, shield: number, ledge: number, blast: [number, number, number, number] | null }} Look
 *   pixel: game units of one pixel; shield: pressure on the trigger in 0..1; ledge: height of the ledges
 */

const HITLAG_SHAKE = 0.35; // game units
const SHIELDS = [178, 179, 181, 182]; // not while it is put down
const MAX_SHIELD = 60;
const HANGING = [252, 253];
const MAX_HANG_LIFT = 9; // game units between the hands of a hanging figure and the ledge
const REBIRTH = [12, 13];

/** @param {CanvasRenderingContext2D} ctx @param {Fighter} fighter @param {Look} look */
export function drawFighter(ctx, fighter, look) {
  if (fighter.action <= LAST_DEAD) return drawDeath(ctx, fighter, look);
  if (fighter.action <= LAST_ABSENT) return;
  const build = buildOf(fighter.character), shake = fighter.hitlag > 0 ? HITLAG_SHAKE * (fighter.frames % 2 ? 1 : -1) : 0;
  ctx.save();
  ctx.translate(fighter.x + shake, fighter.y);
  if (REBIRTH.includes(fighter.action)) drawPedestal(ctx, build, look);
  ctx.save();
  ctx.scale(fighter.facing < 0 ? -1 : 1, 1);
  drawPosed(ctx, fighter, build, look);
  ctx.restore();
  if (SHIELDS.includes(fighter.action)) drawShield(ctx, fighter, build, look);
  ctx.restore();
}

/** @param {CanvasRenderingContext2D} ctx @param {Fighter} fighter @param {Build} build @param {Look} look */
function drawPosed(ctx, fighter, build, look) {
  const { animation } = animationOf(fighter), frame = animationFrame(fighter);
  const isHanging = HANGING.includes(fighter.action);
  const body = skeleton(oriented(sample(animation, frame), fighter), build, (animation.air && fighter.airborne) || isHanging);
  if (isHanging) ctx.translate(0, Math.max(-MAX_HANG_LIFT, Math.min(MAX_HANG_LIFT, look.ledge - fighter.y - body.near.hand[1])));
  const paint = paintOf(fighter, build.height, look);
  if (!look.isGhost && animation.strikes !== "none" && frame >= animation.from && frame <= animation.to + 3) {
    drawTrail(ctx, animation, frame, fighter, build, look);
  }
  if (fighter.hurtbox > 0 || REBIRTH.includes(fighter.action)) drawHalo(ctx, build, look);
  const shape = silhouetteOf(fighter, frame);
  if (shape) {
    ctx.fillStyle = paint.main;
    ctx.strokeStyle = paint.outline;
    ctx.lineWidth = paint.line;
    ctx.save();
    ctx.scale(1, -1);
    ctx.stroke(shape);
    ctx.fill(shape);
    ctx.restore();
  } else drawBody(ctx, body, build, paint);
  const isStunned = Number.isNaN(fighter.hitstun) ? actionCategory(fighter.action) === "hit" : fighter.hitstun > 0;
  if (isStunned && fighter.hitlag <= 0 && !look.isGhost) drawStars(ctx, fighter, build, look);
}

/** A figure that is knocked away lies along its way. @param {import("./poses.js").Pose} pose @param {Fighter} fighter */
function oriented(pose, { action, velocityX, velocityY, facing }) {
  if (action < 87 || action > 90) return pose;
  const forward = velocityX * facing, speed = Math.hypot(forward, velocityY);
  if (speed < 0.6) return pose;
  const back = Math.atan2(velocityY, Math.max(0.4, Math.abs(forward))) * (180 / Math.PI);
  return { ...pose, turn: forward <= 0 ? -62 + back * 0.7 : 62 - back * 0.7 };
}

/** @param {Fighter} fighter @param {number} height of the figure @param {Look} look
 * @returns {import("./body.js").Paint} */
function paintOf(fighter, height, { color, theme, pixel, isGhost }) {
  const isHit = fighter.hitlag > 0 && actionCategory(fighter.action) === "hit";
  const main = isHit ? theme.flash : color;
  const isGone = fighter.action === 235 || fighter.action === 236;
  return {
    main, far: mixed(main, theme.shadow, isGhost ? 0.2 : 0.38), light: mixed(main, "#ffffff", 0.42), eye: theme.dark ? "#10151c" : "#141a24",
    outline: isGone && fighter.hurtbox > 0 ? theme.flash : theme.outline, blade: mixed(main, "#e9f0ff", 0.8),
    line: Math.min(2.2 * pixel, height * 0.045),
  };
}

/** @param {CanvasRenderingContext2D} ctx @param {import("./poses.js").Animation} animation @param {number} frame
 * @param {Fighter} fighter @param {Build} build @param {Look} look */
function drawTrail(ctx, animation, frame, fighter, build, look) {
  const steps = 12, length = 5;
  const isFoot = animation.strikes === "foot" || animation.strikes === "feet";
  /** @type {[Point, Point][]} */
  const edge = [];
  for (let i = 0; i <= steps; i++) {
    const at = Math.max(animation.from, frame - (length * i) / steps);
    const { near } = skeleton(sample(animation, at), build, animation.air && fighter.airborne);
    edge.push(isFoot ? [near.toe, near.knee] : [build.blade ? near.tip : near.hand, build.blade ? near.hand : near.shoulder]);
  }
  for (let i = 0; i < steps; i++) {
    const [outer, inner] = edge[i], [nextOuter, nextInner] = edge[i + 1];
    ctx.globalAlpha = 0.5 * (1 - i / steps) ** 1.4;
    ctx.fillStyle = mixed(look.color, look.theme.flash, 0.55);
    ctx.beginPath();
    ctx.moveTo(...outer);
    ctx.lineTo(...nextOuter);
    ctx.lineTo(...nextInner);
    ctx.lineTo(...inner);
    ctx.fill();
  }
  ctx.globalAlpha = 1;
}

/** @param {CanvasRenderingContext2D} ctx @param {Build} build @param {Look} look */
function drawHalo(ctx, { height }, { theme, isGhost }) {
  const glow = ctx.createRadialGradient(0, height * 0.5, height * 0.2, 0, height * 0.5, height * 0.8);
  glow.addColorStop(0, alpha(theme.flash, isGhost ? 0.2 : 0.45));
  glow.addColorStop(1, alpha(theme.flash, 0));
  ctx.fillStyle = glow;
  ctx.beginPath();
  ctx.arc(0, height * 0.5, height * 0.8, 0, 2 * Math.PI);
  ctx.fill();
}

/** @param {CanvasRenderingContext2D} ctx @param {Fighter} fighter @param {Build} build @param {Look} look */
function drawShield(ctx, fighter, build, look) {
  const health = Math.max(0, Math.min(1, fighter.shield / MAX_SHIELD));
  const pressure = look.shield > 0 ? look.shield : 1;
  const radius = build.height * 0.72 * (0.25 + 0.75 * health) * (1.12 - 0.12 * pressure);
  const middle = build.height * 0.5;
  const fill = ctx.createRadialGradient(-radius * 0.25, middle + radius * 0.3, radius * 0.1, 0, middle, radius);
  const strength = (look.isGhost ? 0.4 : 1) * (0.6 + 0.4 * pressure);
  fill.addColorStop(0, alpha("#ffffff", 0.3 * strength));
  fill.addColorStop(0.6, alpha(look.color, 0.32 * strength));
  fill.addColorStop(1, alpha(look.color, 0.6 * strength));
  ctx.beginPath();
  ctx.arc(0, middle, radius, 0, 2 * Math.PI);
  ctx.fillStyle = fill;
  ctx.fill();
  ctx.strokeStyle = fighter.hitlag > 0 || fighter.action === 182 ? look.theme.flash : alpha(look.color, 0.9);
  ctx.lineWidth = 1.6 * look.pixel;
  ctx.stroke();
}

/** @param {CanvasRenderingContext2D} ctx @param {Fighter} fighter @param {Build} build @param {Look} look */
function drawStars(ctx, fighter, { height }, { theme, pixel }) {
  ctx.strokeStyle = theme.flash;
  ctx.lineWidth = 1.5 * pixel;
  ctx.lineCap = "round";
  for (let i = 0; i < 3; i++) {
    const angle = fighter.frames * 0.22 + (i * 2 * Math.PI) / 3;
    const x = Math.cos(angle) * height * 0.34, y = height * 1.1 + Math.sin(angle) * height * 0.08, r = height * 0.045;
    ctx.beginPath();
    ctx.moveTo(x - r, y);
    ctx.lineTo(x + r, y);
    ctx.moveTo(x, y - r);
    ctx.lineTo(x, y + r);
    ctx.stroke();
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {Build} build @param {Look} look */
function drawPedestal(ctx, { height }, { theme, color, pixel }) {
  const width = height * 0.75;
  const glow = ctx.createLinearGradient(0, 0, 0, -height * 0.5);
  glow.addColorStop(0, alpha(color, 0.5));
  glow.addColorStop(1, alpha(color, 0));
  ctx.fillStyle = glow;
  ctx.beginPath();
  ctx.moveTo(-width, 0);
  ctx.lineTo(width, 0);
  ctx.lineTo(width * 0.4, -height * 0.5);
  ctx.lineTo(-width * 0.4, -height * 0.5);
  ctx.fill();
  ctx.fillStyle = theme.flash;
  ctx.fillRect(-width, -1.2 * pixel, 2 * width, 2.4 * pixel);
}

/** A burst from the blast zone inwards; falling stars turn and shrink. @param {CanvasRenderingContext2D} ctx
 * @param {Fighter} fighter @param {Look} look */
function drawDeath(ctx, fighter, look) {
  const build = buildOf(fighter.character);
  if (fighter.action >= 3) return drawStarDeath(ctx, fighter, build, look);
  const share = Math.min(1, fighter.frames / 40);
  if (share >= 1) return;
  const inwards = { 0: Math.PI / 2, 1: 0, 2: Math.PI }[fighter.action] ?? Math.PI / 2;
  const [left, right, low] = look.blast ?? [-Infinity, Infinity, -Infinity];
  ctx.save();
  ctx.translate(Math.max(left, Math.min(right, fighter.x)), Math.max(low, fighter.y));
  ctx.rotate(inwards);
  const strength = (1 - share) * (look.isGhost ? 0.5 : 1);
  for (let i = -3; i <= 3; i++) {
    ctx.save();
    ctx.rotate(i * 0.09);
    const length = (90 - Math.abs(i) * 16) * (0.35 + 0.65 * Math.sqrt(share)), width = 4.2 * (1 - share) + 0.6;
    const ray = ctx.createLinearGradient(0, 0, length, 0);
    ray.addColorStop(0, alpha(i ? look.color : look.theme.flash, strength));
    ray.addColorStop(1, alpha(look.color, 0));
    ctx.fillStyle = ray;
    ctx.beginPath();
    ctx.moveTo(0, -width);
    ctx.lineTo(length, 0);
    ctx.lineTo(0, width);
    ctx.fill();
    ctx.restore();
  }
  ctx.restore();
}

/** @param {CanvasRenderingContext2D} ctx @param {Fighter} fighter @param {Build} build @param {Look} look */
function drawStarDeath(ctx, fighter, build, look) {
  const isStar = fighter.action <= 5, scale = isStar ? Math.max(0.12, 1 - fighter.frames / 110) : 1.15;
  const top = look.blast ? look.blast[3] - build.height : fighter.y;
  ctx.save();
  ctx.translate(fighter.x, Math.min(fighter.y, top));
  ctx.scale(scale, scale);
  const { animation } = animationOf({ ...fighter, action: 91 });
  drawBody(ctx, skeleton(sample(animation, fighter.frames), build, true), build, paintOf(fighter, build.height, look));
  ctx.restore();
}
