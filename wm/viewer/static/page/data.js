// The page's data: columns of frames as base64 of the little-endian arrays that wm/viewer/data.py writes.

import { LAST_ABSENT } from "./actions.js";

/** @typedef {import("./types.js").Stage} Stage */
/** @typedef {import("./types.js").Fighter} Fighter */
/** @typedef {import("./types.js").Controller} Controller */

/**
 * @typedef {{
 *   floats: string[], codes: string[], stages: Record<string, Stage>,
 *   randall: { width: number, period: number, path: [number, number, number][] }, dreams: DreamData[],
 * }} PageData
 * @typedef {{
 *   label: string, game: string, stage: number, names: [string, string], firstFrame: number,
 *   numContext: number, numFrames: number, positionError: number[], truth: Columns, dream: Columns,
 *   platforms: { left: string, right: string } | null, hasVelocity: boolean, hasHitstun: { truth: boolean, dream: boolean },
 * }} DreamData frames of the truth begin numContext before the dream
 * @typedef {{ floats: string, codes: string }} Columns
 */

const PLAYERS = 2;
const STICK_GRID = 80, TRIGGER_GRID = 140;
/** Frames of a player who is dead in the first frame: the death is not shown again. */
export const LONG_DEAD = 1000;

/** @param {string} text base64 @returns {ArrayBuffer} */
function bytesOf(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

/** The frames of the truth or of a dream. */
export class Track {
  /** @param {Columns} columns @param {string[]} floats names of the float columns @param {string[]} codes */
  constructor(columns, floats, codes) {
    this.floats = new Float32Array(bytesOf(columns.floats));
    this.codes = new Int16Array(bytesOf(columns.codes));
    this.floatNames = floats;
    this.codeNames = codes;
    this.length = this.floats.length / (floats.length * PLAYERS);
  }

  /** @param {string} name @param {number} frame @param {number} player @returns {number} NaN for an unknown column */
  value(name, frame, player) {
    const row = frame * PLAYERS + player, column = this.floatNames.indexOf(name);
    if (column >= 0) return this.floats[row * this.floatNames.length + column];
    const code = this.codeNames.indexOf(name);
    return code >= 0 ? this.codes[row * this.codeNames.length + code] : NaN;
  }
}

/** One dream beside the truth. Frame 0 is the first true one before the dream. */
export class Dream {
  /** @param {DreamData} data @param {PageData} page */
  constructor(data, page) {
    this.data = data;
    this.truth = new Track(data.truth, page.floats, page.codes);
    this.imagined = new Track(data.dream, page.floats, page.codes);
    this.numContext = data.numContext;
    this.length = data.numContext + data.numFrames;
    this.stage = page.stages[String(data.stage)];
    this.platformHeights = data.platforms && {
      left: new Float32Array(bytesOf(data.platforms.left)), right: new Float32Array(bytesOf(data.platforms.right)),
    };
    this.ages = { truth: this.framesInActions("truth"), dream: this.framesInActions("dream") };
  }

  /** @param {"truth" | "dream"} which @param {string} name @param {number} frame @param {number} player */
  value(which, name, frame, player) {
    const isImagined = which === "dream" && frame >= this.numContext;
    return isImagined ? this.imagined.value(name, frame - this.numContext, player) : this.truth.value(name, frame, player);
  }

  /** @param {"truth" | "dream"} which @returns {Int32Array[]} by player: frames since the action of each frame began */
  framesInActions(which) {
    return [0, 1].map((player) => {
      const counts = new Int32Array(this.length);
      counts[0] = this.value(which, "action", 0, player) <= LAST_ABSENT ? LONG_DEAD : 0;
      for (let frame = 1; frame < this.length; frame++) {
        const same = this.value(which, "action", frame, player) === this.value(which, "action", frame - 1, player);
        const restarts = this.value(which, "state_age", frame, player) < this.value(which, "state_age", frame - 1, player) - 2;
        counts[frame] = same && !restarts ? counts[frame - 1] + 1 : 0;
      }
      return counts;
    });
  }

  /** @param {"truth" | "dream"} which @param {number} frame @param {number} player @returns {Fighter} */
  fighter(which, frame, player) {
    const value = (/** @type {string} */ name) => this.value(which, name, frame, player);
    const airborne = value("airborne") > 0;
    const hasHitstun = this.data.hasHitstun[frame < this.numContext ? "truth" : which];
    return {
      x: value("x"), y: value("y"), percent: value("percent"), shield: value("shield"), stocks: value("stocks"),
      character: value("character"), action: value("action"), age: value("state_age"),
      frames: this.ages[which][player][frame], facing: value("facing"), airborne, hitlag: value("hitlag"),
      hurtbox: value("hurtbox"), hitstun: hasHitstun ? value("hitstun") : NaN, lCancel: value("l_cancel"),
      ...this.velocity(which, frame, player),
    };
  }

  /** Of the frame, or how far it is from the one before in games that hold no velocities. @param {"truth" | "dream"} which
   * @param {number} frame @param {number} player */
  velocity(which, frame, player) {
    const value = (/** @type {string} */ name, at = frame) => this.value(which, name, at, player);
    if (!this.data.hasVelocity) {
      const before = Math.max(0, frame - 1);
      return { velocityX: value("x") - value("x", before), velocityY: value("y") - value("y", before) };
    }
    const ownX = value(value("airborne") > 0 ? "self_air_x" : "self_ground_x");
    return { velocityX: value("attack_x") + ownX, velocityY: value("self_y") + value("attack_y") };
  }

  /** The same in the truth and in the dream. @param {number} frame @param {number} player @returns {Controller} */
  controller(frame, player) {
    const value = (/** @type {string} */ name) => this.truth.value(name, frame, player);
    return {
      mainX: value("main_x") / STICK_GRID, mainY: value("main_y") / STICK_GRID, cX: value("c_x") / STICK_GRID,
      cY: value("c_y") / STICK_GRID, trigger: value("trigger") / TRIGGER_GRID, buttons: value("buttons") & 0xffff,
    };
  }

  /** @param {number} frame @returns {number} Slippi's number of a frame: players can move from 0 on */
  gameFrame(frame) {
    return this.data.firstFrame - this.numContext + frame;
  }

  /** @param {number} frame @returns {number} mean of |dx| and |dy| over both players, game units; 0 before the dream */
  error(frame) {
    return frame < this.numContext ? 0 : this.data.positionError[frame - this.numContext];
  }
}

/** @returns {PageData} */
export function readPageData() {
  return JSON.parse(document.getElementById("data")?.textContent ?? "{}");
}
