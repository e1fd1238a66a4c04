// Joints of a figure in a pose: game units, the fighter's position at the origin, facing right, y upwards.

/** @typedef {import("./poses.js").Pose} Pose */
/** @typedef {import("./builds.js").Build} Build */
/** @typedef {[number, number]} Point */
/** @typedef {{ shoulder: Point, elbow: Point, hand: Point, tip: Point, hip: Point, knee: Point, foot: Point, toe: Point }} Side */
/** @typedef {{ near: Side, far: Side, hip: Point, neck: Point, head: Point, tail: Point[], size: Sizes }} Skeleton */
/** @typedef {{ unit: number, head: number, chest: number, waist: number, arm: number, leg: number, foot: number }} Sizes */

const RAD = Math.PI / 180;
// Lengths as shares of the height.
const THIGH = 0.225, SHIN = 0.225, TORSO = 0.27, UPPER_ARM = 0.165, FOREARM = 0.16, HEAD = 0.118, TOE = 0.085;

/** @param {Build} build @returns {Sizes} radii in game units */
export function sizesOf({ height, girth, head }) {
  return {
    unit: height, head: HEAD * height * head, chest: 0.098 * height * girth, waist: 0.07 * height * girth,
    arm: 0.046 * height * girth, leg: 0.056 * height * girth, foot: 0.043 * height * girth,
  };
}

/** @param {Point} from @param {number} degrees from straight down, forward positive @param {number} length @returns {Point} */
function along([x, y], degrees, length) {
  return [x + length * Math.sin(degrees * RAD), y - length * Math.cos(degrees * RAD)];
}

/** @param {Pose} pose @param {Build} build @param {boolean} air @returns {Skeleton} */
export function skeleton(pose, build, air) {
  const size = sizesOf(build), h = build.height;
  const hip = /** @type {Point} */ ([0, (THIGH + SHIN) * h + size.foot]);
  const neck = along(hip, 180 - pose.lean, TORSO * h);
  const head = along(neck, 180 - pose.lean - pose.head, size.head * 0.92);
  const shoulder = along(hip, 180 - pose.lean, TORSO * h * 0.86);
  const near = side(hip, shoulder, pose.armNear, pose.elbowNear, pose.legNear, pose.kneeNear, build);
  const far = side(hip, shoulder, pose.armFar, pose.elbowFar, pose.legFar, pose.kneeFar, build);
  const tail = build.tail ? tailOf(hip, pose, build) : [];
  const body = { near, far, hip, neck, head, tail, size };
  return settled(body, pose, build, air);
}

/** @param {Point} hip @param {Point} shoulder @param {number} arm @param {number} elbowBend @param {number} leg
 * @param {number} kneeBend @param {Build} build @returns {Side} */
function side(hip, shoulder, arm, elbowBend, leg, kneeBend, { height: h, blade }) {
  const elbow = along(shoulder, arm, UPPER_ARM * h), hand = along(elbow, arm + elbowBend, FOREARM * h);
  const knee = along(hip, leg, THIGH * h), foot = along(knee, leg - kneeBend, SHIN * h);
  const tip = along(hand, arm + elbowBend + 6 + Math.min(46, elbowBend * 0.9), (blade || 0.02) * h);
  return { shoulder, elbow, hand, tip, hip, knee, foot, toe: along(foot, Math.min(150, leg - kneeBend + 84), TOE * h) };
}

/** @param {Point} hip @param {Pose} pose @param {Build} build @returns {Point[]} */
function tailOf(hip, { lean, legFar }, { height, tail }) {
  const sway = -72 - lean * 0.6 - legFar * 0.15;
  const middle = along(hip, sway, tail * height * 0.5);
  return [hip, middle, along(middle, sway - 34, tail * height * 0.55)];
}

/** Turns the whole figure, and puts it on the ground. @param {Skeleton} body @param {Pose} pose @param {Build} build
 * @param {boolean} air @returns {Skeleton} */
function settled(body, pose, build, air) {
  const middle = /** @type {Point} */ ([body.hip[0] * 0.5 + body.neck[0] * 0.5, build.height * 0.5]);
  const sin = Math.sin(-pose.turn * RAD), cos = Math.cos(-pose.turn * RAD);
  const turned = mapped(body, ([x, y]) => {
    const dx = x - middle[0], dy = y - middle[1];
    return [middle[0] + dx * cos - dy * sin, middle[1] + dx * sin + dy * cos];
  });
  const lift = pose.lift * build.height + (air ? 0 : -lowest(turned));
  return mapped(turned, ([x, y]) => [x, y + lift]);
}

/** @param {Skeleton} body @returns {number} height of the lowest part */
function lowest({ near, far, head, neck, hip, size }) {
  return Math.min(
    near.foot[1] - size.foot, far.foot[1] - size.foot, near.toe[1] - size.foot, far.toe[1] - size.foot,
    near.knee[1] - size.leg, far.knee[1] - size.leg, head[1] - size.head, neck[1] - size.chest, hip[1] - size.waist,
  );
}

/** @param {Skeleton} body @param {(point: Point) => Point} change @returns {Skeleton} */
export function mapped(body, change) {
  /** @param {Side} s @returns {Side} */
  const sideOf = (s) => ({
    shoulder: change(s.shoulder), elbow: change(s.elbow), hand: change(s.hand), tip: change(s.tip), hip: change(s.hip),
    knee: change(s.knee), foot: change(s.foot), toe: change(s.toe),
  });
  return {
    near: sideOf(body.near), far: sideOf(body.far), hip: change(body.hip), neck: change(body.neck),
    head: change(body.head), tail: body.tail.map(change), size: body.size,
  };
}
