// Poses by animation. Angles in degrees. Limbs are measured from straight down, forward is positive; elbows bend
// forward, knees backward; `lean` tilts the body and `turn` turns the whole figure forward.

/**
 * @typedef {{ lean: number, head: number, armNear: number, elbowNear: number, armFar: number, elbowFar: number,
 *   legNear: number, kneeNear: number, legFar: number, kneeFar: number, turn: number, lift: number }} Pose
 *   lift in shares of the height
 */

/** @typedef {"hand" | "hands" | "foot" | "feet" | "none"} Striking the limbs that draw a trail */

/**
 * @typedef {{ keys: [number, Pose][], cycle: number, air: boolean, strikes: Striking, from: number, to: number }} Animation
 *   keys by frame of the animation; cycle > 0 repeats; strikes between the frames `from` and `to`
 */

/**
 * @param {number} lean @param {number} head @param {[number, number, number, number]} arms near: shoulder, elbow; far
 * @param {[number, number, number, number]} legs near: hip, knee; far @param {number} [turn] @param {number} [lift]
 * @returns {Pose}
 */
function pose(lean, head, arms, legs, turn = 0, lift = 0) {
  return {
    lean, head, armNear: arms[0], elbowNear: arms[1], armFar: arms[2], elbowFar: arms[3],
    legNear: legs[0], kneeNear: legs[1], legFar: legs[2], kneeFar: legs[3], turn, lift,
  };
}

const STAND = pose(8, -4, [-18, 78, 32, 88], [-16, 16, 24, 22]);
const BREATHE = pose(10, -4, [-14, 80, 36, 84], [-20, 24, 27, 30]);
const CROUCH = pose(34, -22, [10, 80, 40, 80], [78, 130, 42, 118]);
const SQUAT = pose(20, -10, [-30, 40, -10, 40], [52, 92, 40, 84]);
const GUARD = pose(16, -8, [48, 95, 62, 88], [-22, 40, 40, 50]);
const FALL = pose(4, 4, [-62, 30, 78, 34], [-12, 34, 24, 40]);
const JUMP = pose(8, -8, [150, 24, -46, 30], [58, 92, -14, 34]);
const TUCK = pose(40, 25, [40, 80, 60, 80], [100, 130, 110, 135]);
const HANG = pose(-2, -14, [168, 6, 176, 4], [-6, 14, 10, 22]);
const LIMP = pose(4, 28, [8, 8, -10, 10], [-6, 14, 8, 22]);
const LYING = pose(0, 0, [150, 20, 24, 10], [8, 16, -6, 10]);
const SPREAD = pose(-6, -10, [118, 20, -98, 20], [48, 40, -42, 40]);

/** @param {[number, Pose][]} keys @param {Partial<Animation>} [more] @returns {Animation} */
function ground(keys, more = {}) {
  return { keys, cycle: 0, air: false, strikes: "none", from: 0, to: 0, ...more };
}

/** @param {[number, Pose][]} keys @param {Partial<Animation>} [more] @returns {Animation} */
function air(keys, more = {}) {
  return ground(keys, { air: true, ...more });
}

/**
 * A strike: ready, wound up, struck, back.
 * @param {Pose} windUp @param {Pose} strike @param {[number, number, number]} times wound up, struck, end
 * @param {Striking} strikes @param {Partial<Animation>} [more]
 * @returns {Animation}
 */
function blow(windUp, strike, [ready, hit, end], strikes, more = {}) {
  const rest = more.air ? FALL : STAND;
  const hold = Math.min(hit + 4, end);
  return ground([[0, rest], [ready, windUp], [hit, strike], [hold, strike], [end, rest]], {
    strikes, from: ready, to: hold + 1, ...more,
  });
}

/** @param {number} from @param {number} to @param {number} frames @returns {[number, Pose][]} turning in a tuck */
function turning(from, to, frames) {
  return [[0, { ...TUCK, turn: from }], [frames, { ...TUCK, turn: to }]];
}

const RUN_A = pose(26, -16, [-70, 85, 62, 95], [58, 30, -38, 62]);
const RUN_B = pose(22, -14, [-6, 90, 4, 90], [12, 14, 26, 112], 0, 0.02);
const RUN_C = pose(26, -16, [62, 95, -70, 85], [-38, 62, 58, 30]);
const RUN_D = pose(22, -14, [4, 90, -6, 90], [26, 112, 12, 14], 0, 0.02);
const WALK_A = pose(6, -3, [-30, 30, 30, 40], [30, 6, -24, 16]);
const WALK_B = pose(4, -2, [-2, 34, 4, 34], [3, 4, 12, 48]);
const WALK_C = pose(6, -3, [30, 40, -30, 30], [-24, 16, 30, 6]);
const WALK_D = pose(4, -2, [4, 34, -2, 34], [12, 48, 3, 4]);

/** @type {Record<string, Animation>} */
export const ANIMATIONS = {
  stand: ground([[0, STAND], [30, BREATHE]], { cycle: 60 }),
  walk: ground([[0, WALK_A], [9, WALK_B], [18, WALK_C], [27, WALK_D]], { cycle: 36 }),
  dash: ground([[0, SQUAT], [2, RUN_A], [6, RUN_B], [10, RUN_C], [14, RUN_D], [18, RUN_A]]),
  run: ground([[0, RUN_A], [4, RUN_B], [8, RUN_C], [12, RUN_D]], { cycle: 16 }),
  brake: ground([[0, pose(-18, 10, [-20, 40, 60, 50], [38, 12, -14, 50])], [16, STAND]]),
  turn: ground([[0, pose(-4, 0, [20, 60, -20, 60], [-10, 20, 14, 24])], [8, STAND]]),
  crouch: ground([[0, STAND], [5, CROUCH]]),
  rise: ground([[0, CROUCH], [8, STAND]]),
  squat: ground([[0, STAND], [3, SQUAT]]),
  jump: air([[0, JUMP], [14, pose(4, -4, [110, 30, -60, 30], [34, 70, -10, 36])], [26, FALL]]),
  flip: air([[0, { ...TUCK, turn: 0 }], [12, { ...TUCK, turn: 300 }], [16, { ...FALL, turn: 360 }], [99, { ...FALL, turn: 360 }]]),
  flipBack: air([[0, { ...TUCK, turn: 0 }], [12, { ...TUCK, turn: -300 }], [16, { ...FALL, turn: -360 }], [99, { ...FALL, turn: -360 }]]),
  fall: air([[0, FALL], [6, pose(6, 6, [-74, 30, 88, 34], [-16, 40, 28, 46])]], { cycle: 12 }),
  helpless: air([[0, pose(-8, 30, [120, 20, 140, 20], [10, 30, -8, 30])], [10, pose(-4, 34, [132, 24, 128, 20], [14, 36, -10, 36])]], { cycle: 20 }),
  land: ground([[0, CROUCH], [4, SQUAT], [14, STAND]]),
  landLag: ground([[0, pose(44, -20, [30, 40, -40, 30], [84, 126, 30, 110])], [10, CROUCH], [26, STAND]]),

  jab: blow(pose(0, 0, [-30, 120, 40, 90], [-14, 16, 24, 22]), pose(18, -8, [92, 0, 10, 100], [-24, 12, 34, 30]), [1, 4, 16], "hand"),
  rapid: ground([[0, pose(14, -8, [80, 10, 20, 110], [-20, 14, 30, 30])], [3, pose(14, -8, [20, 110, 84, 8], [-20, 14, 30, 30])]], { cycle: 6, strikes: "hands", from: 0, to: 99 }),
  dashAttack: blow(pose(30, -16, [-20, 60, 40, 60], [30, 60, -30, 50]), pose(-22, 18, [-40, 40, 50, 60], [88, 0, -6, 70], 0, 0.03), [3, 7, 36], "foot"),
  sideTilt: blow(pose(-6, 4, [-20, 70, 40, 80], [60, 100, -4, 10]), pose(-26, 20, [-50, 30, 40, 80], [92, 0, -6, 8]), [3, 7, 27], "foot"),
  upTilt: blow(pose(10, -4, [-40, 40, 40, 80], [-50, 60, 12, 22]), pose(-44, 30, [-60, 30, 20, 80], [158, 4, -4, 10]), [3, 7, 24], "foot"),
  downTilt: blow({ ...CROUCH, legNear: 90, kneeNear: 120 }, pose(22, -12, [-50, 30, -10, 50], [84, 2, 60, 132]), [3, 7, 26], "foot"),
  sideSmash: blow(pose(-24, 14, [-118, 50, 50, 60], [-34, 34, 20, 10]), pose(34, -20, [94, 0, -60, 30], [-46, 12, 48, 48]), [9, 14, 42], "hand"),
  upSmash: blow(CROUCH, pose(-8, -16, [182, 2, 172, 4], [-10, 8, 14, 10], 0, 0.06), [6, 10, 40], "hands"),
  downSmash: blow(SQUAT, pose(4, -4, [60, 60, -60, 60], [76, 4, -76, 4]), [4, 8, 44], "feet"),

  neutralAir: blow(TUCK, pose(-20, 16, [-50, 40, 60, 40], [86, 0, 20, 104]), [2, 5, 34], "foot", { air: true }),
  forwardAir: blow(pose(-14, -6, [196, 20, 150, 20], [10, 60, -30, 50]), pose(28, -14, [52, 4, 30, 40], [-20, 50, 40, 80]), [5, 11, 36], "hand", { air: true }),
  backAir: blow(pose(30, 0, [30, 80, 50, 80], [60, 120, 60, 120]), pose(52, -30, [40, 60, 80, 50], [-92, 0, 50, 110]), [3, 7, 34], "foot", { air: true }),
  upAir: air([[0, FALL], [3, { ...TUCK, turn: 20 }], [8, pose(-50, 30, [-60, 30, -30, 40], [164, 2, 120, 40], -30)], [13, pose(-50, 30, [-60, 30, -30, 40], [150, 4, 150, 20], -110)], [24, { ...TUCK, turn: -300 }], [30, { ...FALL, turn: -360 }], [99, { ...FALL, turn: -360 }]], { strikes: "foot", from: 3, to: 15 }),
  downAir: blow(TUCK, pose(-10, 12, [140, 30, -110, 30], [6, 0, 34, 96]), [4, 9, 38], "foot", { air: true }),

  hit: ground([[0, pose(-30, -18, [64, 40, 84, 30], [22, 14, -12, 26])], [5, pose(-22, -8, [40, 40, 60, 30], [18, 18, -14, 26])], [20, STAND]]),
  hitLow: ground([[0, pose(36, 24, [40, 20, 20, 20], [-20, 20, 10, 40])], [20, STAND]]),
  hitAir: air([[0, pose(-34, -18, [84, 30, 100, 20], [44, 30, 10, 20])], [16, pose(-20, -6, [70, 30, 84, 20], [30, 36, 6, 30])]]),
  fly: air([[0, pose(-20, -18, [112, 12, 128, 10], [58, 16, 34, 26])], [20, pose(-14, -14, [100, 20, 120, 14], [50, 24, 28, 30])]]),
  tumble: air([[0, { ...SPREAD, turn: 0 }], [44, { ...SPREAD, turn: 360 }]], { cycle: 44 }),
  spin: air([[0, { ...LIMP, turn: 0 }], [14, { ...LIMP, turn: 360 }]], { cycle: 14 }),
  dizzy: ground([[0, pose(14, 20, [20, 10, -8, 10], [-14, 14, 18, 18])], [16, pose(-10, -14, [-6, 10, 16, 12], [-16, 16, 20, 20])]], { cycle: 32 }),

  guard: ground([[0, GUARD]]),
  shieldHit: ground([[0, pose(-8, 6, [60, 90, 70, 90], [-12, 30, 44, 40])], [16, GUARD]]),
  parry: ground([[0, pose(10, -10, [84, 30, 90, 30], [-22, 40, 40, 50])], [4, GUARD]]),
  roll: ground([...turning(0, 360, 26), [31, { ...CROUCH, turn: 360 }]]),
  rollBack: ground([...turning(0, -360, 26), [31, { ...CROUCH, turn: -360 }]]),
  spotDodge: ground([[0, STAND], [4, pose(-20, 10, [-20, 90, 50, 100], [-6, 20, 30, 30])], [18, pose(-20, 10, [-20, 90, 50, 100], [-6, 20, 30, 30])], [24, STAND]]),
  airDodge: air([[0, TUCK], [6, pose(-14, 10, [-30, 100, 40, 110], [30, 70, 20, 60])], [30, FALL]]),

  grab: blow(pose(-4, 2, [30, 90, 50, 90], [-14, 16, 24, 22]), pose(32, -22, [88, 4, 96, 2], [-36, 14, 46, 46]), [4, 7, 28], "hands"),
  hold: ground([[0, pose(12, -4, [84, 22, 92, 18], [-20, 16, 28, 26])]]),
  pummel: ground([[0, pose(12, -4, [84, 22, 92, 18], [-20, 16, 28, 26])], [6, pose(4, 6, [84, 22, 92, 18], [86, 110, 10, 12])], [14, pose(12, -4, [84, 22, 92, 18], [-20, 16, 28, 26])]]),
  throwForward: ground([[0, pose(-16, 8, [60, 90, 70, 90], [-20, 16, 28, 26])], [8, pose(34, -18, [92, 0, 98, 0], [-44, 12, 48, 46])], [30, STAND]]),
  throwBack: ground([[0, pose(10, 0, [80, 30, 90, 30], [-20, 16, 28, 26])], [8, pose(-52, 20, [-110, 10, -120, 10], [20, 40, -20, 30])], [34, STAND]]),
  throwUp: ground([[0, pose(20, -6, [50, 60, 60, 60], [-20, 40, 40, 50])], [8, pose(-10, -20, [176, 2, 184, 2], [-10, 6, 14, 8])], [30, STAND]]),
  throwDown: ground([[0, pose(-10, 0, [130, 30, 140, 30], [-20, 16, 28, 26])], [8, pose(58, -20, [34, 4, 44, 4], [-20, 40, 44, 60])], [34, STAND]]),
  held: ground([[0, LIMP], [12, { ...LIMP, head: 18, legNear: 8, legFar: -10 }]], { cycle: 24 }),
  heldHit: ground([[0, pose(-16, -20, [30, 20, -30, 20], [24, 20, -16, 30])], [10, LIMP]]),

  lieBack: ground([[0, { ...LYING, turn: -90 }]]),
  lieFront: ground([[0, { ...LYING, turn: 90 }]]),
  standUp: ground([[0, { ...LYING, turn: -80 }], [10, { ...CROUCH, turn: -10 }], [24, STAND]]),
  floorAttack: ground([[0, { ...LYING, turn: -80 }], [12, CROUCH], [17, pose(20, -10, [40, 20, -60, 20], [84, 2, -70, 30])], [22, pose(20, -10, [40, 20, -60, 20], [84, 2, -70, 30])], [40, STAND]], { strikes: "feet", from: 12, to: 24 }),
  tech: ground([[0, { ...TUCK, turn: -60 }], [8, CROUCH], [20, STAND]]),

  hang: air([[0, HANG], [24, { ...HANG, legNear: 4, legFar: 2 }]], { cycle: 48 }),
  climb: ground([[0, HANG], [14, pose(50, -20, [30, 10, 40, 10], [96, 120, 10, 40])], [28, CROUCH], [34, STAND]]),
  ledgeAttack: ground([[0, HANG], [14, CROUCH], [20, pose(30, -16, [92, 0, -40, 30], [-40, 14, 46, 46])], [26, pose(30, -16, [92, 0, -40, 30], [-40, 14, 46, 46])], [50, STAND]], { strikes: "hand", from: 14, to: 26 }),
  teeter: ground([[0, pose(26, -16, [120, 20, -120, 20], [-16, 20, 20, 26])], [8, pose(10, -10, [60, 20, -70, 20], [-16, 24, 20, 30])]], { cycle: 16 }),

  special: ground([[0, pose(-4, 0, [40, 110, 50, 100], [-16, 18, 26, 26])], [8, pose(16, -8, [90, 2, 20, 90], [-26, 14, 34, 30])], [30, STAND]], { strikes: "hand", from: 4, to: 12 }),
  specialAir: air([[0, pose(-4, 0, [40, 110, 50, 100], [20, 60, -10, 40])], [8, pose(16, -8, [90, 2, 20, 90], [-10, 30, 34, 60])], [30, FALL]], { strikes: "hand", from: 4, to: 12 }),
  specialSide: air([[0, pose(58, -46, [86, 4, -60, 20], [-40, 20, -66, 16])]], { strikes: "hand", from: 0, to: 999 }),
  specialUp: air([[0, pose(4, -14, [178, 2, -10, 40], [6, 8, 30, 96])]], { strikes: "hand", from: 0, to: 999 }),
  specialDown: air([[0, pose(10, 10, [-150, 10, 150, 10], [4, 2, 40, 110])]], { strikes: "foot", from: 0, to: 999 }),
  taunt: ground([[0, STAND], [10, pose(-8, 6, [170, 10, -20, 40], [-12, 8, 16, 10])], [20, pose(-8, 6, [150, 40, -20, 40], [-12, 8, 16, 10])], [40, STAND]]),
};

/**
 * @param {Animation} animation @param {number} frame of the animation
 * @returns {Pose} between the keys around the frame
 */
export function sample(animation, frame) {
  const { keys, cycle } = animation;
  const time = cycle > 0 ? ((frame % cycle) + cycle) % cycle : Math.max(0, frame);
  let next = keys.findIndex(([at]) => at > time);
  if (next === 0) return keys[0][1];
  const last = keys.length - 1;
  const [from, a] = keys[next < 0 ? last : next - 1];
  if (next < 0 && (cycle === 0 || from >= cycle)) return a;
  const isBack = next < 0;
  const [to, b] = isBack ? [cycle, withTurnOf(keys[0][1], a)] : keys[next];
  const share = (time - from) / (to - from);
  return blend(a, b, share * share * (3 - 2 * share));
}

/** @param {Pose} pose @param {Pose} other @returns {Pose} the same pose after whole turns, next to the other's turn */
function withTurnOf(pose, other) {
  return { ...pose, turn: pose.turn + 360 * Math.round((other.turn - pose.turn) / 360) };
}

/** @param {Pose} a @param {Pose} b @param {number} share of b @returns {Pose} */
export function blend(a, b, share) {
  const mixed = { ...a };
  for (const key of /** @type {(keyof Pose)[]} */ (Object.keys(a))) mixed[key] = a[key] + (b[key] - a[key]) * share;
  return mixed;
}
