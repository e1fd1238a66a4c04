// The page: what is shown, and what buttons, keys, pointers and links do.

import { updateCard } from "./cards.js";
import { CATEGORIES } from "./actions.js";
import { Dream, readPageData } from "./data.js";
import { linkOf, MODES, momentOf } from "./link.js";
import { Playback } from "./playback.js";
import { Screen } from "./screen.js";
import { frameAt, tipOf } from "./timeline.js";
import { loadSilhouettes } from "../figure/silhouettes.js";

/** @typedef {import("./types.js").Mode} Mode */

const NARROW = "(max-width: 46rem)";

const COUNTDOWN_S = 8 * 60;
const NOTICE_MS = 1800, ADDRESS_MS = 15_000; // an address is there to be selected

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

class Viewer {
  constructor() {
    this.page = readPageData();
    this.screen = new Screen(this.page);
    this.systemTheme = matchMedia("(prefers-color-scheme: dark)");
    /** @type {"dark" | "light" | null} */
    this.chosenTheme = null;
    /** @type {Mode} */
    this.mode = matchMedia(NARROW).matches ? "ghost" : "both";
    /** @type {"close" | "stage"} */
    this.view = "close";
    this.number = 0;
    this.dream = new Dream(this.page.dreams[0], this.page);
    this.playback = new Playback(this.dream.length);
    this.shown = -1;
    this.time = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.hiding = undefined;
  }

  start() {
    const moment = momentOf(location.hash); // before the address follows what is shown
    this.fillPicker();
    this.listen();
    this.applyTheme();
    this.show(0);
    this.go(moment);
    if (moment.frame === undefined && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.playback.playing = true;
    this.update(true);
    requestAnimationFrame((time) => this.tick(time));
  }

  /** @param {Partial<import("./link.js").Moment>} moment */
  go(moment) {
    if (moment.dream !== undefined && moment.dream <= this.page.dreams.length) this.show(moment.dream - 1);
    if (moment.mode) this.mode = moment.mode;
    if (moment.view) this.view = moment.view;
    if (moment.speed) this.playback.speed = moment.speed;
    if (moment.frame !== undefined) {
      this.playback.playing = false;
      this.playback.seek(moment.frame + this.dream.numContext);
    }
    this.update(true);
  }

  /** @param {number} number of a dream */
  show(number) {
    const { speed, playing } = this.playback;
    this.number = number;
    this.dream = new Dream(this.page.dreams[number], this.page);
    this.playback = new Playback(this.dream.length);
    Object.assign(this.playback, { speed, playing });
    const { data } = this.dream;
    element("stage-name").textContent = this.dream.stage.name;
    element("game").textContent = `game ${data.game}, from frame ${data.firstFrame}`;
    for (const player of [0, 1]) element(`name-${player}`).textContent = data.names[player];
    const slider = element("slider");
    slider.setAttribute("aria-valuemin", String(-data.numContext));
    slider.setAttribute("aria-valuemax", String(data.numFrames - 1));
    this.markChosen();
    this.update(true);
  }

  /** Mark the button of the dream that is shown, and scroll to it. */
  markChosen() {
    const list = element("dreams");
    list.querySelectorAll("button").forEach((button, at) => {
      const isChosen = at === this.number, { offsetLeft, offsetWidth } = button;
      button.setAttribute("aria-pressed", String(isChosen));
      if (isChosen) list.scrollLeft = Math.min(offsetLeft, Math.max(list.scrollLeft, offsetLeft + offsetWidth - list.clientWidth));
    });
  }

  /** @param {number} time milliseconds */
  tick(time) {
    this.playback.advance(Math.min(0.1, (time - this.time) / 1000));
    this.time = time;
    this.update(false);
    requestAnimationFrame((next) => this.tick(next));
  }

  /** Draw, if another frame is to be shown. @param {boolean} everything */
  update(everything) {
    const { frame } = this.playback;
    if (everything) this.updateControls();
    if (!everything && frame === this.shown) return;
    this.shown = frame;
    const { dream } = this;
    if (everything) this.screen.drawTimeline(dream);
    this.screen.drawFrame(dream, frame, this.mode, this.view);
    for (const player of [0, 1]) updateCard(dream, frame, player, element(`card-${player}`));
    const since = frame - dream.numContext;
    element("clock").textContent = clockText(dream.gameFrame(frame));
    element("since").textContent = since < 0 ? `frame \u2212${-since}, observed` : `frame +${since}, ${(since / 60).toFixed(2)} s`;
    element("error").textContent = since < 0 ? "\u2013" : dream.error(frame).toFixed(2);
    const slider = element("slider");
    slider.setAttribute("aria-valuenow", String(since));
    slider.setAttribute("aria-valuetext", since < 0 ? `frame ${since}, observed` : `frame ${since}, ${dream.error(frame).toFixed(2)} units apart`);
    Object.assign(document.documentElement.dataset, { frame: String(since), dream: String(this.number + 1) });
    if (!this.playback.playing) this.keepLink();
  }

  updateControls() {
    const { playing, speed } = this.playback;
    document.body.dataset.mode = this.mode;
    Object.assign(document.documentElement.dataset, { mode: this.mode, view: this.view, playing: String(playing), speed: String(speed) });
    element("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    element("play").dataset.playing = String(playing);
    document.querySelectorAll("[data-mode-button]").forEach((button) => button.setAttribute("aria-pressed", String(button.getAttribute("data-mode-button") === this.mode)));
    document.querySelectorAll("[data-speed]").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.getAttribute("data-speed")) === speed)));
    element("view").setAttribute("aria-pressed", String(this.view === "stage"));
  }

  link() {
    const frame = this.playback.frame - this.dream.numContext;
    return linkOf({ dream: this.number + 1, frame, speed: this.playback.speed, mode: this.mode, view: this.view });
  }

  /** The address follows what is shown, where the browser lets it. */
  keepLink() {
    if (location.hash === this.link()) return;
    try {
      history.replaceState(null, "", this.link());
    } catch {
      // a page within another page has no address of its own
    }
  }

  async copyLink() {
    const address = location.href.split("#")[0] + this.link();
    const isCopied = await navigator.clipboard?.writeText(address).then(() => true, () => false) ?? false;
    if (isCopied) this.say("Link copied", NOTICE_MS);
    else this.say(address, ADDRESS_MS);
  }

  /** @param {string} text @param {number} milliseconds */
  say(text, milliseconds) {
    const toast = element("toast");
    toast.textContent = text;
    toast.classList.add("shown");
    clearTimeout(this.hiding);
    this.hiding = setTimeout(() => toast.classList.remove("shown"), milliseconds);
  }

  applyTheme() {
    this.screen.dark = this.chosenTheme ? this.chosenTheme === "dark" : this.systemTheme.matches;
    document.documentElement.dataset.theme = this.screen.dark ? "dark" : "light";
    this.fillLegend();
    this.update(true);
  }

  toggleTheme() {
    this.chosenTheme = this.screen.dark ? "light" : "dark";
    this.applyTheme();
  }

  fillPicker() {
    const list = element("dreams");
    this.page.dreams.forEach((dream, number) => {
      const button = document.createElement("button");
      button.type = "button";
      const event = document.createElement("b");
      event.textContent = dream.label;
      const words = document.createElement("span");
      words.textContent = `${dream.names.join(" \u2013 ")}, ${this.page.stages[String(dream.stage)].name}`;
      button.append(event, words);
      button.addEventListener("click", () => this.show(number));
      list.append(button);
    });
    list.hidden = this.page.dreams.length < 2;
  }

  fillLegend() {
    const { categories } = this.screen.theme;
    element("legend").replaceChildren(...CATEGORIES.map((name) => {
      const item = document.createElement("li"), mark = document.createElement("i");
      mark.style.background = categories[name];
      item.append(mark, name);
      return item;
    }));
  }

  listen() {
    const on = (/** @type {string} */ id, /** @type {() => void} */ act) => element(id).addEventListener("click", () => {
      act();
      this.update(true);
    });
    on("play", () => this.playback.toggle());
    on("back", () => this.playback.step(-1));
    on("forward", () => this.playback.step(1));
    on("first", () => this.playback.step(this.dream.numContext - this.playback.frame));
    on("view", () => (this.view = this.view === "close" ? "stage" : "close"));
    on("theme", () => this.toggleTheme());
    on("link", () => void this.copyLink());
    on("figures", () => element("folder").click());
    document.querySelectorAll("[data-mode-button]").forEach((button) => button.addEventListener("click", () => {
      this.mode = /** @type {Mode} */ (button.getAttribute("data-mode-button"));
      this.update(true);
    }));
    document.querySelectorAll("[data-speed]").forEach((button) => button.addEventListener("click", () => {
      this.playback.speed = Number(button.getAttribute("data-speed"));
      this.update(true);
    }));
    this.systemTheme.addEventListener("change", () => this.applyTheme());
    addEventListener("hashchange", () => this.go(momentOf(location.hash)));
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("click", (event) => {
      const isPointer = event.detail > 0, focused = document.activeElement;
      if (isPointer && focused instanceof HTMLButtonElement) focused.blur(); // the space bar plays again
    });
    new ResizeObserver(() => this.update(true)).observe(element("panels"));
    this.listenToPointer();
    const folder = /** @type {HTMLInputElement} */ (element("folder"));
    folder.addEventListener("change", async () => {
      this.say(`${await loadSilhouettes(folder.files ?? [])} silhouettes in use`, NOTICE_MS);
      this.update(true);
    });
  }

  listenToPointer() {
    const slider = element("slider"), tip = element("tip");
    const at = (/** @type {PointerEvent} */ event) => {
      const box = slider.getBoundingClientRect();
      return { frame: frameAt(this.dream, event.clientX - box.left, box.width), x: event.clientX - box.left, y: event.clientY - box.top, width: box.width };
    };
    const seek = (/** @type {PointerEvent} */ event) => {
      this.playback.playing = false;
      this.playback.seek(at(event).frame);
      this.update(true);
    };
    slider.addEventListener("pointerdown", (event) => {
      slider.setPointerCapture(event.pointerId);
      seek(event);
    });
    slider.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) seek(event);
      const { frame, x, y, width } = at(event);
      tip.textContent = tipOf(this.dream, frame, y);
      tip.style.left = `${Math.max(90, Math.min(width - 90, x))}px`;
      tip.classList.add("shown");
    });
    slider.addEventListener("pointerleave", () => tip.classList.remove("shown"));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1, dream = this.dream;
    /** @type {Record<string, () => void>} */
    const acts = {
      " ": () => this.playback.toggle(),
      ArrowLeft: () => this.playback.step(-step),
      ArrowRight: () => this.playback.step(step),
      "+": () => this.playback.changeSpeed(1),
      "=": () => this.playback.changeSpeed(1), // the key of + without shift
      "-": () => this.playback.changeSpeed(-1),
      m: () => (this.mode = MODES[(MODES.indexOf(this.mode) + 1) % MODES.length]),
      g: () => (this.mode = this.mode === "ghost" ? "both" : "ghost"),
      c: () => (this.view = this.view === "close" ? "stage" : "close"),
      t: () => this.toggleTheme(),
      l: () => void this.copyLink(),
      n: () => this.show((this.number + 1) % this.page.dreams.length),
      p: () => this.show((this.number + this.page.dreams.length - 1) % this.page.dreams.length),
    };
    /** @type {Record<string, () => void>} keys that scroll the page elsewhere */
    const onSlider = {
      ArrowUp: () => this.playback.step(step),
      ArrowDown: () => this.playback.step(-step),
      Home: () => this.playback.step(dream.numContext - this.playback.frame),
      End: () => this.playback.step(dream.length),
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const act = acts[key] ?? (event.target === element("slider") ? onSlider[key] : undefined);
    const isButton = event.target instanceof HTMLButtonElement && event.key === " ";
    if (!act || isButton) return;
    event.preventDefault();
    act();
    this.update(true);
  }
}

/** @param {number} frame of the game @returns {string} time left of eight minutes, as the game shows it */
function clockText(frame) {
  const left = Math.max(0, COUNTDOWN_S - Math.max(0, frame) / 60);
  const minutes = Math.floor(left / 60), seconds = left - 60 * minutes;
  return `${minutes}:${seconds.toFixed(2).padStart(5, "0")}`;
}

const viewer = new Viewer();
viewer.start();
Object.assign(window, { viewer });
