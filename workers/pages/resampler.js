/** Streaming resampler: windowed sinc in polyphase form, exact for every ratio of whole sample rates. */

/** Zero crossings of the sinc on each side; with the window below, aliases are 80 dB down. */
const CROSSINGS = 32;
/** Shape of the Kaiser window. */
const BETA = 8;
/** Where the pass band ends, as a part of the lower Nyquist frequency. */
const ROLL_OFF = 0.92;

export class Resampler {
  /** @param {number} from @param {number} to  samples per second, whole numbers */
  constructor(from, to) {
    const divisor = gcd(from, to);
    this._up = to / divisor;
    this._down = from / divisor;
    const cutoff = from === to ? 1 : Math.min(1, to / from) * ROLL_OFF;
    this._half = from === to ? 0 : Math.ceil(CROSSINGS / Math.min(1, to / from));
    /** @type {(Float32Array | undefined)[]} */
    this._kernels = [];
    this._kernel = (/** @type {number} */ phase) =>
      (this._kernels[phase] ??= kernel(phase / this._up, this._half, cutoff));
    // Input from `_begin` on, which may be before the first sample: there is silence.
    this._input = new Float32Array(this._half);
    this._begin = -this._half;
    this._given = 0;
    this._made = 0;
  }

  /** @param {Float32Array} samples @returns {Float32Array} what became certain */
  push(samples) {
    this._given += samples.length;
    return this._take(samples, this._given - this._half);
  }

  /** The rest. All output together is as long as the input. @returns {Float32Array} */
  flush() {
    return this._take(new Float32Array(this._half), this._given);
  }

  /** Take samples, and give all output for positions of the input before `end`. */
  _take(samples, end) {
    const input = new Float32Array(this._input.length + samples.length);
    input.set(this._input);
    input.set(samples, this._input.length);
    const output = new Float32Array(Math.max(0, Math.ceil((end * this._up) / this._down) - this._made));
    for (let index = 0; index < output.length; index++, this._made++) {
      const position = this._made * this._down;
      const kernel = this._kernel(position % this._up);
      const first = Math.floor(position / this._up) - this._half - this._begin;
      let sum = 0;
      for (let tap = 0; tap < kernel.length; tap++) sum += kernel[tap] * input[first + tap];
      output[index] = sum;
    }
    const next = Math.floor((this._made * this._down) / this._up) - this._half;
    const used = Math.min(Math.max(0, next - this._begin), input.length);
    this._input = input.slice(used);
    this._begin += used;
    return output;
  }
}

/** Weights of the samples from `half` before to `half` behind the one that the output lies `shift` behind. */
function kernel(shift, half, cutoff) {
  const weights = new Float32Array(2 * half + 1);
  if (half === 0) return weights.fill(1);
  for (let tap = 0; tap < weights.length; tap++) {
    const x = tap - half - shift;
    const angle = Math.PI * cutoff * x;
    const sinc = x === 0 ? 1 : Math.sin(angle) / angle;
    const edge = 1 - (x / (half + 1)) ** 2;
    weights[tap] = (cutoff * sinc * bessel(BETA * Math.sqrt(Math.max(0, edge)))) / bessel(BETA);
  }
  return weights;
}

/** Modified Bessel function of the first kind and order 0. */
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let n = 1; term > 1e-12 * sum; n++) {
    term *= (x / (2 * n)) ** 2;
    sum += term;
  }
  return sum;
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}
