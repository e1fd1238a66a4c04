// Where the viewer is in a dream, and how it moves on. No DOM.

export const SPEEDS = [1 / 8, 1 / 4, 1 / 2, 1, 2];
const FRAMES_PER_SECOND = 60;
const PAUSE_AT_END_S = 1.2;

export class Playback {
  /** @param {number} length frames */
  constructor(length) {
    this.length = length;
    this.position = 0; // fractional frame
    this.speed = 1;
    this.playing = false;
    this.rest = 0; // seconds left of the pause at the end
  }

  /** @returns {number} */
  get frame() {
    return Math.min(this.length - 1, Math.floor(this.position));
  }

  /** @param {number} frame */
  seek(frame) {
    this.position = Math.max(0, Math.min(this.length - 1, Math.round(frame)));
    this.rest = 0;
  }

  /** @param {number} frames */
  step(frames) {
    this.playing = false;
    this.seek(this.frame + frames);
  }

  toggle() {
    this.playing = !this.playing;
    if (this.playing && this.frame >= this.length - 1) this.seek(0);
  }

  /** @param {number} by places in SPEEDS */
  changeSpeed(by) {
    const at = SPEEDS.indexOf(this.speed);
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + by))];
  }

  /** Play on; begins again after the end. @param {number} seconds */
  advance(seconds) {
    if (!this.playing) return;
    if (this.rest > 0) {
      this.rest -= seconds;
      if (this.rest <= 0) this.position = 0;
      return;
    }
    this.position += seconds * FRAMES_PER_SECOND * this.speed;
    if (this.position >= this.length - 1) {
      this.position = this.length - 1;
      this.rest = PAUSE_AT_END_S;
    }
  }
}
