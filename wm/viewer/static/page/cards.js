// Words and numbers about both players: action, age, percent, stocks; the truth and the dream, with what differs marked.

import { actionName } from "./actions.js";
import { LONG_DEAD } from "./data.js";

/** @typedef {import("./data.js").Dream} Dream */
/** @typedef {import("./types.js").Fighter} Fighter */

const INTANGIBLE = ["", "invulnerable", "intangible"];

/** @param {Dream} dream @param {number} frame @param {number} player @param {HTMLElement} card */
export function updateCard(dream, frame, player, card) {
  const truth = dream.fighter("truth", frame, player), imagined = dream.fighter("dream", frame, player);
  fill(card, "truth", truth, truth);
  fill(card, "dream", imagined, truth);
}

/** @param {HTMLElement} card @param {string} which @param {Fighter} fighter @param {Fighter} truth */
function fill(card, which, fighter, truth) {
  const set = (/** @type {string} */ name, /** @type {string} */ text, /** @type {boolean} */ differs) => {
    const cell = card.querySelector(`[data-row="${which}"] [data-cell="${name}"]`);
    if (!cell) return;
    if (cell.textContent !== text) cell.textContent = text;
    cell.classList.toggle("differs", differs);
  };
  set("action", actionName(fighter.action), fighter.action !== truth.action);
  set("age", ageOf(fighter), false);
  set("percent", `${fighter.percent.toFixed(fighter.percent % 1 ? 1 : 0)}%`, Math.abs(fighter.percent - truth.percent) >= 0.5);
  set("stocks", String(fighter.stocks), fighter.stocks !== truth.stocks);
  set("state", stateOf(fighter), false);
}

/** @param {Fighter} fighter @returns {string} frame of the animation, or of an action without one */
function ageOf({ age, frames }) {
  if (age >= 0) return String(Math.round(age));
  return frames < LONG_DEAD ? String(frames) : "\u2013";
}

/** @param {Fighter} fighter @returns {string} what else is to be known, in a few words */
function stateOf(fighter) {
  if (fighter.hitlag > 0) return `hitlag ${Math.round(fighter.hitlag)}`;
  if (fighter.hitstun > 0) return `hitstun ${Math.round(fighter.hitstun)}`;
  if (fighter.hurtbox > 0) return INTANGIBLE[fighter.hurtbox] ?? "";
  if (fighter.action >= 178 && fighter.action <= 182) return `shield ${fighter.shield.toFixed(0)}`;
  if (fighter.action >= 70 && fighter.action <= 74 && fighter.lCancel) return fighter.lCancel === 1 ? "l-cancel" : "missed l-cancel";
  return fighter.airborne ? "air" : "ground";
}
