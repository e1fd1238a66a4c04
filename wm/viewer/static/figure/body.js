// Draws a skeleton as a figure of tapered capsules. The context's unit is the game unit, y upwards, facing right.

/** @typedef {import("./skeleton.js").Skeleton} Skeleton */
/** @typedef {import("./skeleton.js").Point} Point */
/** @typedef {import("./skeleton.js").Side} Side */
/** @typedef {import("./builds.js").Build} Build */
/** @typedef {{ main: string, far: string, light: string, outline: string, eye: string, blade: string, line: number }} Paint */

/** A capsule of two radii. @param {CanvasRenderingContext2D} ctx @param {Point} a @param {number} ra @param {Point} b
 * @param {number} rb */
function capsule(ctx, [ax, ay], ra, [bx, by], rb) {
  const length = Math.hypot(bx - ax, by - ay) || 1e-6;
  const angle = Math.atan2(by - ay, bx - ax);
  const tilt = Math.acos(Math.max(-1, Math.min(1, (ra - rb) / length)));
  ctx.beginPath();
  ctx.arc(ax, ay, ra, angle + tilt, angle - tilt + 2 * Math.PI);
  ctx.arc(bx, by, rb, angle - tilt, angle + tilt);
  ctx.closePath();
}

/** @param {CanvasRenderingContext2D} ctx @param {string} fill @param {Paint} paint */
function painted(ctx, fill, { outline, line }) {
  ctx.lineWidth = line;
  ctx.strokeStyle = outline;
  ctx.stroke();
  ctx.fillStyle = fill;
  ctx.fill();
}

/** @param {CanvasRenderingContext2D} ctx @param {Skeleton} body @param {Build} build @param {Paint} paint */
export function drawBody(ctx, body, build, paint) {
  ctx.lineJoin = "round";
  if (build.round) return drawRound(ctx, body, build, paint);
  const { near, far, size } = body;
  const farPaint = { ...paint, main: paint.far };
  if (body.tail.length) drawTail(ctx, body, { ...paint, main: paint.far });
  arm(ctx, far, size, farPaint, paint.far);
  leg(ctx, far, size, farPaint, paint.far);
  leg(ctx, near, size, paint, paint.light);
  if (build.dress) drawDress(ctx, body, paint);
  capsule(ctx, body.hip, size.waist, near.shoulder, size.chest);
  painted(ctx, paint.main, paint);
  drawHead(ctx, body, build, paint);
  if (build.blade) drawBlade(ctx, near, size.arm, paint);
  arm(ctx, near, size, paint, paint.light);
}

/** @param {CanvasRenderingContext2D} ctx @param {Side} side @param {Skeleton["size"]} size @param {Paint} paint
 * @param {string} glove */
function arm(ctx, side, size, paint, glove) {
  capsule(ctx, side.shoulder, size.arm * 1.1, side.elbow, size.arm * 0.9);
  painted(ctx, paint.main, paint);
  capsule(ctx, side.elbow, size.arm * 0.9, side.hand, size.arm * 0.95);
  painted(ctx, paint.main, paint);
  capsule(ctx, side.hand, size.arm * 1.25, side.hand, size.arm * 1.25);
  painted(ctx, glove, paint);
}

/** @param {CanvasRenderingContext2D} ctx @param {Side} side @param {Skeleton["size"]} size @param {Paint} paint
 * @param {string} boot */
function leg(ctx, side, size, paint, boot) {
  capsule(ctx, side.hip, size.leg * 1.15, side.knee, size.leg * 0.92);
  painted(ctx, paint.main, paint);
  capsule(ctx, side.knee, size.leg * 0.92, side.foot, size.leg * 0.78);
  painted(ctx, paint.main, paint);
  capsule(ctx, side.foot, size.foot * 1.1, side.toe, size.foot * 0.85);
  painted(ctx, boot, paint);
}

/** @param {CanvasRenderingContext2D} ctx @param {Skeleton} body @param {Build} build @param {Paint} paint */
function drawHead(ctx, body, build, paint) {
  const { head, neck, size } = body, r = size.head;
  const up = Math.atan2(head[1] - neck[1], head[0] - neck[0]);
  ctx.save();
  ctx.translate(head[0], head[1]);
  ctx.rotate(up - Math.PI / 2);
  if (build.ears) {
    for (const [x, fill] of /** @type {[number, string][]} */ ([[-0.05, paint.far], [-0.5, paint.main]])) {
      capsule(ctx, [x * r, r * 0.6], r * 0.34, [(x - 0.42) * r, r * 0.6 + build.ears * size.unit], r * 0.08);
      painted(ctx, fill, paint);
    }
  }
  if (build.snout) {
    capsule(ctx, [r * 0.45, -r * 0.3], r * 0.44, [r * 0.75 + build.snout * size.unit * 0.6, -r * 0.36], r * 0.16);
    painted(ctx, paint.light, paint);
  }
  ctx.beginPath();
  ctx.ellipse(0, 0, r * 0.95, r, 0, 0, 2 * Math.PI);
  painted(ctx, paint.main, paint);
  eyes(ctx, r * 0.42, r * 0.06, r * 0.3, paint);
  ctx.restore();
}

/** @param {CanvasRenderingContext2D} ctx @param {number} x @param {number} y @param {number} r @param {Paint} paint */
function eyes(ctx, x, y, r, paint) {
  ctx.fillStyle = paint.eye;
  for (const shift of [-0.75, 0.85]) {
    ctx.beginPath();
    ctx.ellipse(x + shift * r * 0.8, y, r * 0.36, r * 0.92, 0, 0, 2 * Math.PI);
    ctx.fill();
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {Skeleton} body @param {Paint} paint */
function drawTail(ctx, { tail, size }, paint) {
  capsule(ctx, tail[0], size.leg * 0.6, tail[1], size.leg * 0.95);
  painted(ctx, paint.main, paint);
  capsule(ctx, tail[1], size.leg * 0.95, tail[2], size.leg * 0.3);
  painted(ctx, paint.main, paint);
}

/** @param {CanvasRenderingContext2D} ctx @param {Skeleton} body @param {Paint} paint */
function drawDress(ctx, { hip, near, far, size }, paint) {
  const knee = /** @type {Point} */ ([(near.knee[0] + far.knee[0]) / 2, (near.knee[1] + far.knee[1]) / 2]);
  capsule(ctx, hip, size.waist * 0.9, knee, size.waist * 1.9);
  painted(ctx, paint.main, paint);
}

/** @param {CanvasRenderingContext2D} ctx @param {Side} side @param {number} radius @param {Paint} paint */
function drawBlade(ctx, { hand, tip }, radius, paint) {
  capsule(ctx, hand, radius * 0.62, tip, radius * 0.16);
  painted(ctx, paint.blade, paint);
}

/** A ball with stubs. @param {CanvasRenderingContext2D} ctx @param {Skeleton} body @param {Build} build @param {Paint} paint */
function drawRound(ctx, body, build, paint) {
  const { near, far, hip, neck, size } = body, r = size.unit * 0.4;
  const middle = /** @type {Point} */ ([(hip[0] + neck[0]) / 2, (hip[1] + neck[1]) / 2]);
  for (const [side, fill, boot] of /** @type {[Side, string, string][]} */ ([[far, paint.far, paint.far], [near, paint.main, paint.light]])) {
    capsule(ctx, mix(middle, side.foot, 0.8), size.foot * 1.9, mix(middle, side.toe, 0.9), size.foot * 1.5);
    painted(ctx, boot, paint);
    if (side === far) {
      capsule(ctx, ...stub(middle, side, r), size.arm * 1.7);
      painted(ctx, fill, paint);
    }
  }
  if (build.ears) {
    for (const x of [-0.55, 0.45]) {
      capsule(ctx, [middle[0] + x * r, middle[1] + r * 0.6], r * 0.3, [middle[0] + x * r * 1.3, middle[1] + r * 1.25], r * 0.06);
      painted(ctx, paint.main, paint);
    }
  }
  ctx.beginPath();
  ctx.arc(middle[0], middle[1], r, 0, 2 * Math.PI);
  painted(ctx, paint.main, paint);
  eyes(ctx, middle[0] + r * 0.38, middle[1] + r * 0.3, r * 0.28, paint);
  capsule(ctx, ...stub(middle, near, r), size.arm * 1.7);
  painted(ctx, paint.main, paint);
}

/** The arm of a ball: towards the hand of a figure with limbs. @param {Point} middle @param {Side} side @param {number} r
 * @returns {[Point, number, Point]} where it begins, its radius there, where it ends */
function stub([x, y], { shoulder, hand }, r) {
  const dx = hand[0] - shoulder[0], dy = hand[1] - shoulder[1], length = Math.hypot(dx, dy) || 1;
  const from = /** @type {Point} */ ([x + (dx / length) * r * 0.45, y - r * 0.22 + (dy / length) * r * 0.45]);
  return [from, r * 0.24, [from[0] + (dx / length) * r * 0.62, from[1] + (dy / length) * r * 0.62]];
}

/** @param {Point} a @param {Point} b @param {number} share @returns {Point} */
function mix([ax, ay], [bx, by], share) {
  return [ax + (bx - ax) * share, ay + (by - ay) * share];
}
