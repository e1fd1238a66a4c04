// How large and of what build each character is drawn. Heights follow those at which characters hang from ledges.

/**
 * @typedef {{ height: number, girth: number, head: number, round: boolean, blade: number, tail: number, ears: number,
 *   snout: number, dress: boolean }} Build
 *   height in game units; girth and head as factors; blade, tail, ears and snout as shares of the height, 0 for none
 */

/** @type {Build} */
const PLAIN = { height: 14, girth: 1, head: 1, round: false, blade: 0, tail: 0, ears: 0, snout: 0, dress: false };

/** @type {Record<number, Partial<Build>>} by internal character id */
const BUILDS = {
  0: { height: 13, girth: 1.2, head: 1.2 }, // Mario
  1: { height: 12.5, head: 1.15, tail: 0.42, ears: 0.17, snout: 0.09 }, // Fox
  2: { height: 17, girth: 1.08, head: 0.88 }, // Captain Falcon
  3: { height: 18, girth: 1.65, head: 1.05 }, // Donkey Kong
  4: { height: 10, round: true }, // Kirby
  5: { height: 19, girth: 1.7, head: 1.1, tail: 0.3, ears: 0.08, snout: 0.1 }, // Bowser
  6: { height: 16, blade: 0.42, ears: 0.06 }, // Link
  7: { height: 15.5, girth: 0.85, head: 0.88 }, // Sheik
  8: { height: 10.5, girth: 1.15, head: 1.65 }, // Ness
  9: { height: 15.5, girth: 0.85, head: 1, dress: true }, // Peach
  10: { height: 10, girth: 1.35, head: 1.45 }, // Popo
  11: { height: 10, girth: 1.35, head: 1.45 }, // Nana
  12: { height: 9, girth: 1.5, head: 1.6, tail: 0.5, ears: 0.32 }, // Pikachu
  13: { height: 17, girth: 1.2, head: 0.9 }, // Samus
  14: { height: 14.5, girth: 1.2, head: 1.15, tail: 0.3, snout: 0.14 }, // Yoshi
  15: { height: 10.5, round: true, ears: 0.2 }, // Jigglypuff
  16: { height: 17, girth: 0.9, head: 1.05, tail: 0.62, ears: 0.08 }, // Mewtwo
  17: { height: 14.5, girth: 1.05, head: 1.05 }, // Luigi
  18: { height: 16.5, girth: 0.88, head: 0.88, blade: 0.52 }, // Marth
  19: { height: 15.5, girth: 0.85, head: 0.95, dress: true }, // Zelda
  20: { height: 12.5, head: 1.2, blade: 0.42, ears: 0.07 }, // Young Link
  21: { height: 13, girth: 1.2, head: 1.2 }, // Dr. Mario
  22: { height: 13.5, head: 1.05, tail: 0.22, snout: 0.12 }, // Falco
  23: { height: 8, girth: 1.5, head: 1.7, tail: 0.35, ears: 0.4 }, // Pichu
  24: { height: 13, girth: 0.8, head: 1.2 }, // Mr. Game & Watch
  25: { height: 18.5, girth: 1.35, head: 0.88 }, // Ganondorf
  26: { height: 15.5, girth: 0.95, head: 0.95, blade: 0.5 }, // Roy
};

/** @param {number} character internal id @returns {Build} */
export function buildOf(character) {
  return { ...PLAIN, ...BUILDS[character] };
}
