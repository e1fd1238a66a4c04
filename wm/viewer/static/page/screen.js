// The canvases: their sizes, and what is drawn on them.

import { themeOf } from "./colors.js";
import { drawMarker, drawTimeline, TIMELINE_HEIGHT } from "./timeline.js";
import { cameraBoxes, wholeStage } from "../scene/camera.js";
import { CONTROLLER_SIZE, drawController } from "../scene/controller.js";
import { drawPanel } from "../scene/panel.js";
import { platformsAt } from "../scene/stage.js";

/** @typedef {import("./data.js").Dream} Dream */
/** @typedef {import("./data.js").PageData} PageData */
/** @typedef {import("./types.js").Mode} Mode */
/** @typedef {import("../scene/camera.js").Box} Box */

/** Sets a canvas to the size of its element. @param {HTMLCanvasElement} canvas @param {number} width CSS pixels
 * @param {number} height @returns {CanvasRenderingContext2D} scaled to CSS pixels */
function prepared(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  return ctx;
}

/** @param {string} id @returns {HTMLCanvasElement} */
function canvasOf(id) {
  return /** @type {HTMLCanvasElement} */ (document.getElementById(id));
}

export class Screen {
  /** @param {PageData} page */
  constructor(page) {
    this.page = page;
    this.dark = true;
    /** @type {Dream | null} */
    this.dream = null;
    /** @type {Box[]} by frame of this dream */
    this.boxes = [];
    const slider = /** @type {HTMLElement} */ (document.getElementById("slider"));
    slider.style.height = `${TIMELINE_HEIGHT}px`;
  }

  get theme() {
    return themeOf(this.dark);
  }

  /** @param {Dream} dream @param {number} frame @param {"close" | "stage"} view @returns {Box} */
  box(dream, frame, view) {
    if (view === "stage") return wholeStage(dream);
    if (dream !== this.dream) [this.dream, this.boxes] = [dream, cameraBoxes(dream)];
    return this.boxes[frame];
  }

  /** Stage, fighters and controllers of a frame. @param {Dream} dream @param {number} frame @param {Mode} mode
   * @param {"close" | "stage"} view */
  drawFrame(dream, frame, mode, view) {
    const { theme } = this, box = this.box(dream, frame, view);
    const platforms = platformsAt(dream, frame, this.page.randall);
    const panels = /** @type {["truth" | "dream", "truth" | null, string][]} */ (
      mode === "both" ? [["truth", null, "truth"], ["dream", null, "dream"]]
        : mode === "ghost" ? [["dream", "truth", "dream + truth as a ghost"]] : [[mode, null, mode]]
    );
    panels.forEach(([solid, ghost, title], number) => {
      const canvas = canvasOf(`panel-${number}`), { clientWidth: width, clientHeight: height } = canvas;
      if (!width || !height) return;
      const ctx = prepared(canvas, width, height);
      drawPanel(ctx, { dream, frame, solid, ghost, box, platforms, theme, width, height, title });
    });
    for (const player of [0, 1]) {
      const ctx = prepared(canvasOf(`controller-${player}`), CONTROLLER_SIZE.width, CONTROLLER_SIZE.height);
      drawController(ctx, dream.controller(frame, player), theme, theme.players[player]);
    }
    this.drawMarker(dream, frame);
  }

  /** @param {Dream} dream */
  drawTimeline(dream) {
    const canvas = canvasOf("timeline"), width = canvas.clientWidth;
    drawTimeline(prepared(canvas, width, TIMELINE_HEIGHT), dream, this.theme, width);
  }

  /** @param {Dream} dream @param {number} frame */
  drawMarker(dream, frame) {
    const canvas = canvasOf("marker"), width = canvas.clientWidth;
    drawMarker(prepared(canvas, width, TIMELINE_HEIGHT), dream, this.theme, width, frame);
  }
}
