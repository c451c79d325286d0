/** In the audio thread: whatever plays becomes 16-bit samples at 16 kHz, in frames of 100 ms. */

import { Resampler } from "./resampler.js";

const RATE = 16000;
const FRAME = RATE / 10;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this._resampler = new Resampler(sampleRate, RATE);
    this._frame = new Int16Array(FRAME);
    this._filled = 0;
    this._peak = 0;
    this._ended = false;
    this.port.onmessage = () => this._end();
  }

  process([channels]) {
    if (channels.length && !this._ended) this._write(this._resampler.push(mono(channels)));
    return !this._ended;
  }

  _write(/** @type {Float32Array} */ samples) {
    for (const sample of samples) {
      // Full scale is 32,768, so that 16-bit recordings arrive as they are.
      this._frame[this._filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      this._peak = Math.max(this._peak, Math.abs(sample));
      if (this._filled === FRAME) this._send();
    }
  }

  _send() {
    const pcm = this._frame.slice(0, this._filled).buffer;
    this.port.postMessage({ pcm, peak: this._peak }, [pcm]);
    this._filled = this._peak = 0;
  }

  /** There is no more: give what is left. */
  _end() {
    this._ended = true;
    this._write(this._resampler.flush());
    this._send();
    this.port.postMessage({ ended: true });
  }
}

function mono(/** @type {Float32Array[]} */ channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, index) => channels.reduce((sum, one) => sum + one[index], 0) / channels.length);
}

registerProcessor("surtitle-capture", Capture);
