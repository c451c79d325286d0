/** A microphone or a file as frames of 100 ms of 16-bit samples at 16 kHz, at the pace at which it plays. */

export class Capture {
  /**
   * Does nothing before open() has been called. Callbacks get
   * @param {(frame: {pcm: ArrayBuffer, peak: number}) => void} onframe  audio, and its loudest sample
   * @param {() => void} onended  called after the last frame
   */
  constructor(onframe, onended) {
    this._onframe = onframe;
    this._onended = onended;
    this._context = new AudioContext();
    /** @type {MediaStream | null} */
    this._media = null;
    this._ending = false;
  }

  /**
   * Begin.
   * @param {File | null} file  a recording, or the microphone
   * @param {string} device  id of the microphone; any when empty
   * @throws {DOMException} the file is not audio, or the microphone is not to be had
   */
  async open(file, device = "") {
    const context = this._context;
    try {
      await context.audioWorklet.addModule("/pages/capture-worklet.js");
      const source = file ? await this._play(file) : await this._listen(device);
      this._node = new AudioWorkletNode(context, "surtitle-capture");
      this._node.port.onmessage = ({ data }) => (data.ended ? this._close() : this._onframe(data));
      source.connect(this._node).connect(context.destination); // silent, but what leads nowhere is not run
      await context.resume();
      if (source instanceof AudioBufferSourceNode) source.start();
    } catch (problem) {
      this._release();
      throw problem;
    }
  }

  pause() {
    return this._context.suspend();
  }

  resume() {
    return this._context.resume();
  }

  /** No more; the frame that is not full yet still comes. */
  async stop() {
    if (this._ending || !this._node) return;
    this._ending = true;
    await this._context.resume();
    this._node.port.postMessage("end");
  }

  async _play(/** @type {File} */ file) {
    const source = this._context.createBufferSource();
    source.buffer = await this._context.decodeAudioData(await file.arrayBuffer());
    source.connect(this._context.destination);
    source.onended = () => this.stop();
    return source;
  }

  async _listen(/** @type {string} */ device) {
    // What makes calls pleasant to people takes away what a model hears by.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    this._media = await navigator.mediaDevices.getUserMedia({
      audio: device ? { ...audio, deviceId: { exact: device } } : audio,
    });
    for (const track of this._media.getTracks()) track.onended = () => this.stop(); // it was unplugged
    return this._context.createMediaStreamSource(this._media);
  }

  _close() {
    this._release();
    this._onended();
  }

  _release() {
    this._media?.getTracks().forEach((track) => track.stop());
    this._context.close();
  }
}
