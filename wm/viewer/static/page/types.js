// Shapes of the data that the modules pass to each other. Types only.

/**
 * @typedef {{
 *   name: string,
 *   floor: [number, number][],
 *   platforms: [number, number, number][],
 *   body: [number, number][],
 *   blast: [number, number, number, number] | null,
 *   moves: "fountain" | "randall" | null,
 * }} Stage `stage_as_json` in wm/viewer/geometry.py; game units
 */

/**
 * @typedef {{
 *   x: number, y: number, percent: number, shield: number, stocks: number, character: number,
 *   action: number, age: number, frames: number, facing: number, airborne: boolean, hitlag: number,
 *   hurtbox: number, hitstun: number, lCancel: number, velocityX: number, velocityY: number,
 * }} Fighter one player in one frame; `frames` since its action began, `age` of the animation;
 *   hitstun is NaN where the frames do not hold it
 */

/**
 * @typedef {{ mainX: number, mainY: number, cX: number, cY: number, trigger: number, buttons: number }} Controller
 *   sticks in -1..1, trigger in 0..1, buttons as physical bits
 */

/** @typedef {{ left: number, right: number, y: number }} Platform game units */

/** @typedef {{ width: number, height: number, scale: number, x: number, y: number }} View pixels; centre in game units */

/** @typedef {"both" | "ghost" | "truth" | "dream"} Mode */

/**
 * @typedef {{
 *   page: string, panel: string, text: string, muted: string, grid: string, stage: string, stageTop: string,
 *   stageLine: string, blast: string, platform: string, players: [string, string], ghosts: [string, string], flash: string,
 *   shadow: string, outline: string, accent: string, categories: Record<string, string>, dark: boolean,
 * }} Theme colors
 */

export {};
