// Which animation shows a fighter, and which frame of it.

import { ANIMATIONS } from "./poses.js";
import { FIRST_SPECIAL } from "../page/actions.js";

/** @typedef {import("../page/types.js").Fighter} Fighter */
/** @typedef {import("./poses.js").Animation} Animation */

/** @type {[number, number, string][]} first action, last action, name in ANIMATIONS */
const BY_ACTION = [
  [0, 11, "spin"], [12, 14, "stand"], [15, 17, "walk"], [18, 19, "turn"], [20, 20, "dash"], [21, 22, "run"],
  [23, 23, "brake"], [24, 24, "squat"], [25, 26, "jump"], [27, 27, "flip"], [28, 28, "flipBack"], [29, 34, "fall"],
  [35, 37, "helpless"], [38, 38, "tumble"], [39, 40, "crouch"], [41, 41, "rise"], [42, 43, "land"], [44, 46, "jab"],
  [47, 49, "rapid"], [50, 50, "dashAttack"], [51, 55, "sideTilt"], [56, 56, "upTilt"], [57, 57, "downTilt"],
  [58, 62, "sideSmash"], [63, 63, "upSmash"], [64, 64, "downSmash"], [65, 65, "neutralAir"], [66, 66, "forwardAir"],
  [67, 67, "backAir"], [68, 68, "upAir"], [69, 69, "downAir"], [70, 74, "landLag"], [75, 80, "hit"], [81, 83, "hitLow"],
  [84, 86, "hitAir"], [87, 90, "fly"], [91, 91, "spin"], [92, 99, "jab"], [100, 103, "forwardAir"], [104, 143, "sideTilt"],
  [144, 147, "fall"], [148, 173, "special"], [174, 177, "walk"], [178, 180, "guard"], [181, 181, "shieldHit"],
  [182, 182, "parry"], [183, 185, "lieBack"], [186, 186, "standUp"], [187, 187, "floorAttack"], [188, 188, "roll"],
  [189, 189, "rollBack"], [190, 190, "lieBack"], [191, 193, "lieFront"], [194, 194, "standUp"],
  [195, 195, "floorAttack"], [196, 196, "roll"], [197, 197, "rollBack"], [198, 198, "lieFront"], [199, 199, "tech"],
  [200, 200, "roll"], [201, 201, "rollBack"], [202, 204, "fall"], [205, 206, "tumble"], [207, 208, "lieBack"],
  [209, 210, "standUp"], [211, 211, "dizzy"], [212, 212, "grab"], [213, 213, "hold"], [214, 214, "grab"],
  [215, 216, "hold"], [217, 217, "pummel"], [218, 218, "hit"], [219, 219, "throwForward"], [220, 220, "throwBack"],
  [221, 221, "throwUp"], [222, 222, "throwDown"], [223, 224, "held"], [225, 225, "heldHit"], [226, 227, "held"],
  [228, 228, "heldHit"], [229, 230, "hit"], [231, 232, "held"], [233, 233, "roll"], [234, 234, "rollBack"],
  [235, 235, "spotDodge"], [236, 236, "airDodge"], [237, 238, "hit"], [239, 243, "spin"], [244, 244, "fall"],
  [245, 246, "teeter"], [247, 250, "fly"], [251, 251, "hitAir"], [252, 253, "hang"], [254, 255, "climb"],
  [256, 257, "ledgeAttack"], [258, 259, "roll"], [260, 260, "hang"], [261, 261, "jump"], [262, 262, "hang"],
  [263, 263, "jump"], [264, 265, "taunt"], [266, 293, "held"], [294, 300, "dizzy"], [301, 304, "spin"],
  [305, 324, "stand"], [325, 340, "hitAir"],
];

const FAST = 1.4; // game units per frame from which a special move is shown by its direction

/** @param {Fighter} fighter @returns {{ name: string, animation: Animation }} */
export function animationOf(fighter) {
  const name = nameOf(fighter);
  return { name, animation: ANIMATIONS[name] };
}

/** @param {Fighter} fighter @returns {string} */
function nameOf(fighter) {
  if (fighter.action >= FIRST_SPECIAL) return specialName(fighter);
  const found = BY_ACTION.find(([first, last]) => fighter.action >= first && fighter.action <= last);
  return found ? found[2] : "stand";
}

/** @param {Fighter} fighter @returns {string} a special move, by the way the fighter moves */
function specialName({ airborne, velocityX, velocityY }) {
  if (velocityY > FAST && velocityY > Math.abs(velocityX) * 0.8) return "specialUp";
  if (Math.abs(velocityX) > FAST) return "specialSide";
  if (airborne && velocityY < -3.2) return "specialDown";
  return airborne ? "specialAir" : "special";
}

/** @param {Fighter} fighter @returns {number} frame of its animation; some actions have no age of their own */
export function animationFrame({ age, frames }) {
  return age >= 0 ? age : frames;
}
