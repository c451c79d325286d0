/**
 * Client of Surtitle's protocol version 1 (docs/protocol.md) for browsers: this module and connection.js, without
 * any dependencies.
 *
 * Speaker sends audio and gets events; Watcher follows the captions of a stream, CueWatcher its cues.
 * All of them find back by themselves when the connection breaks.
 */

import { Connection, authorization, refusal, serverUrl } from "./connection.js";

/** Bytes of audio in one message; below the server's limit, so that what comes behind it is soon heard. */
const MESSAGE_BYTES = 16 * 1024;

/** Bytes that may wait in the browser's socket; what is beyond waits here, where it can be sent again. */
const BUFFERED_BYTES = 256 * 1024;

/** Seconds between two probes, and after how many seconds without any answer a connection counts as dead. */
const PROBE_SECONDS = 2;
const DEAD_SECONDS = 20;

/** Encodings whose bytes are no measure of time: nobody knows which of them an `ack` means, and all are kept. */
const COMPRESSED = new Set(["opus", "flac"]);

/** Why one gateway refuses what another one, or the same one later, may not. */
const PASSING = new Set(["at_capacity", "shutting_down"]);

/**
 * @typedef {{type: string, stream_id: string, seq: number, audio_time: number, server_time: number,
 *   [field: string]: any}} SurtitleEvent  as in docs/protocol.md
 * @typedef {{encoding?: string, sample_rate?: number, channels?: number}} AudioFormat
 * @typedef {{text?: string, sentences?: number}} Context
 * @typedef {(string | {[language: string]: string})[]} Glossary
 */

/**
 * A stream of one's own: audio in, events out.
 *
 * What the server has not acknowledged is kept. After a break the stream goes on where the server is, so no
 * word is lost or comes twice, as long as the break is shorter than the server's `resume_seconds`.
 *
 * Dispatches `event` (detail: SurtitleEvent) for every event once and in order, `delay` (detail: seconds
 * from sending audio to its events), and what Connection does.
 */
export class Speaker extends Connection {
  /**
   * @param {{url?: string | string[], key?: string, source?: string, targets?: string[], audio?: AudioFormat,
   *   partials?: boolean, context?: Context, glossary?: Glossary}} options  fields of `start`, where to (several
   *   gateways are tried in turn), and the key or token to show, if any
   */
  constructor(options = {}) {
    super(options.key ?? "");
    const { url = serverUrl(), source = "es", targets = ["en"], audio = {}, partials = true } = options;
    const { context, glossary } = options;
    this._urls = [url].flat();
    this._at = 0;
    this.audio = { encoding: "pcm_s16le", sample_rate: 16000, channels: 1, ...audio };
    this._start = { type: "start", source, targets, audio: this.audio, partials, context, glossary };
    const sampleBytes = { pcm_s16le: 2, pcm_f32le: 4, mulaw: 1, alaw: 1 }[this.audio.encoding];
    this._frameBytes = (sampleBytes ?? 1) * this.audio.channels;
    /** @type {SurtitleEvent | null} the newest `ready` */
    this.ready = null;
    this._seq = 0;
    // Audio and commands that may have to be sent (again), each with the byte of the stream's audio where it
    // begins; how many of them were sent on this connection; bytes of audio so far.
    /** @type {{at: number, data: Uint8Array | string}[]} */
    this._kept = [];
    this._sent = 0;
    this._bytes = 0;
    this._going = false;
    this._stopping = false;
    this._broken = 0;
    this._turns = 0;
    this._probes = new Map();
    this._probing = 0;
    this._pumping = 0;
  }

  /** Connect and start the stream. */
  start() {
    this._open();
    this._probing = setInterval(() => this._probe(), 1000 * PROBE_SECONDS);
    return this;
  }

  /** Seconds of audio given so far. */
  get seconds() {
    return this._bytes / this._frameBytes / this.audio.sample_rate;
  }

  /** Seconds of audio that are kept because the server has not acknowledged them. */
  get pending() {
    const oldest = this._kept.find(({ data }) => typeof data !== "string");
    return oldest ? (this._bytes - oldest.at) / this._frameBytes / this.audio.sample_rate : 0;
  }

  /** Send audio. @param {ArrayBuffer | ArrayBufferView} audio  in the format of the stream, cut anywhere */
  send(audio) {
    if (this.over || this._stopping) return;
    const bytes = ArrayBuffer.isView(audio)
      ? new Uint8Array(audio.buffer.slice(audio.byteOffset, audio.byteOffset + audio.byteLength))
      : new Uint8Array(audio.slice(0));
    for (let at = 0; at < bytes.length; at += MESSAGE_BYTES) {
      const data = bytes.subarray(at, at + MESSAGE_BYTES);
      this._kept.push({ at: this._bytes, data });
      this._bytes += data.length;
    }
    this._pump();
  }

  /** Have what was said so far finalised now. */
  flush() {
    this._command({ type: "flush" });
  }

  /** Ask for an event of type `mark` once everything before it has been processed. */
  mark(id) {
    this._command({ type: "mark", id });
  }

  /**
   * Change settings from the next utterance on.
   * @param {{targets?: string[], partials?: boolean, context?: Context, glossary?: Glossary}} settings
   */
  update(settings) {
    this._command({ type: "update", ...settings });
  }

  /** Say that no more audio comes; the events end with `done`. */
  stop() {
    if (this._stopping) return;
    this._command({ type: "stop" });
    this._stopping = true;
  }

  _command(message) {
    if (this.over || this._stopping) return;
    this._kept.push({ at: this._bytes, data: JSON.stringify(message) });
    this._pump();
  }

  /** The address that is tried now. */
  get url() {
    return this._urls[this._at % this._urls.length];
  }

  _address() {
    return this.url;
  }

  _opened() {
    const { stream_id, token } = this.ready ?? {};
    const resume = { type: "start", resume: { stream_id, token, after_seq: this._seq } };
    this._socket.send(JSON.stringify(this.ready ? resume : this._start));
  }

  _received(event) {
    // Without a stream: none could be had, or not this one any more.
    if (event.type === "error" && !event.stream_id) {
      if (PASSING.has(event.code) && (this.ready || this._untried)) return; // it closes the connection now
      return this._fail(event.code, event.message);
    }
    if (event.seq <= this._seq) return;
    this._seq = event.seq;
    if (event.type === "ready") {
      this.ready = event;
      // When a connection broke before it had brought its `ready`, the next one brings that one first and then
      // its own. Both tell the same position, for in between nothing was sent.
      if (!this._going) this._resume(event.bytes_received);
    } else if (event.type === "ack" && !COMPRESSED.has(this.audio.encoding)) {
      this._forget(Math.floor(event.audio_time * this.audio.sample_rate) * this._frameBytes);
    } else if (event.type === "mark") {
      if (this._probes.has(event.id)) {
        this._tell("delay", (performance.now() - this._probes.get(event.id)) / 1000);
        this._probes.delete(event.id);
      }
      if (!this._answered(event.id)) return;
    }
    this._tell("event", event);
    if (event.type === "done") this._end("ended");
    if (event.type === "error" && event.fatal) this._fail(event.code, event.message);
  }

  /** Whether there is a gateway that was not tried since the last that answered. */
  get _untried() {
    return this._turns + 1 < this._urls.length;
  }

  /** Go on sending at a byte of the audio, and with the commands that may not have arrived. */
  _resume(byte) {
    this._tries = 0;
    this._turns = 0;
    this._broken = 0;
    this._probes.clear();
    this._sent = this._countBefore(byte);
    const next = this._kept[this._sent];
    if (next && typeof next.data !== "string" && next.at < byte) {
      this._kept[this._sent] = { at: byte, data: next.data.subarray(byte - next.at) };
    }
    this._going = true;
    this._become("open");
    this._pump();
  }

  /** Forget a mark that has been answered; whether there was one, for it may have been sent twice. */
  _answered(id) {
    const mark = JSON.stringify({ type: "mark", id });
    const index = this._kept.findIndex(({ data }) => data === mark);
    if (index < 0) return false;
    this._kept.splice(index, 1);
    if (index < this._sent) this._sent--;
    return true;
  }

  /** How much of what is kept certainly comes before a byte of the audio. */
  _countBefore(byte) {
    const index = this._kept.findIndex(({ at, data }) =>
      typeof data === "string" ? at >= byte : at + data.length > byte,
    );
    return index < 0 ? this._kept.length : index;
  }

  _forget(byte) {
    const forgotten = Math.min(this._countBefore(byte), this._sent);
    this._kept.splice(0, forgotten);
    this._sent -= forgotten;
  }

  _pump() {
    clearTimeout(this._pumping);
    if (!this._going) return;
    while (this._sent < this._kept.length) {
      if (this._socket.bufferedAmount > BUFFERED_BYTES) {
        this._pumping = setTimeout(() => this._pump(), 50); // browsers tell nobody when there is room
        return;
      }
      this._socket.send(this._kept[this._sent++].data);
    }
  }

  _probe() {
    if (!this._going) return;
    if (this._probes.size && performance.now() - this._heard > 1000 * DEAD_SECONDS) return this.reconnect();
    if (this._stopping || this._sent < this._kept.length) return;
    const id = `surtitle.js ${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    this._probes.set(id, performance.now());
    this._socket.send(JSON.stringify({ type: "mark", id }));
  }

  _closed(code) {
    this._going = false;
    if (this.over) return;
    if (!this.ready && !this._untried) {
      return this._fail("unreachable", `no Surtitle server answers at ${this.url}`);
    }
    this._at++;
    this._turns++;
    if (!this.ready) return super._closed(code);
    this._broken ||= performance.now();
    if (performance.now() - this._broken > 1000 * this.ready.limits.resume_seconds) {
      return this._fail("connection_lost", "the server was away for longer than it keeps a stream");
    }
    super._closed(code);
  }

  _end(state, problem = null) {
    this._going = false;
    clearInterval(this._probing);
    clearTimeout(this._pumping);
    super._end(state, problem);
  }
}

/**
 * The captions of a stream in one language, from its beginning, for as long as it lasts.
 *
 * Dispatches `event` (detail: SurtitleEvent): `transcript` or `translation`, at last `done` or a fatal
 * `error`; each once, also across connections. State `failed` says that the stream is not there (any more).
 */
export class Watcher extends Connection {
  /** @param {{stream: string, target?: string, origin?: string | string[], key?: string}} options */
  constructor({ stream, target = "", origin = location.origin, key = "" }, path = "captions") {
    super(key);
    this._path = path;
    this._origins = [origin].flat();
    this._at = 0;
    this.stream = stream;
    this.target = target;
    this._seq = 0;
  }

  start() {
    this._open();
    return this;
  }

  /** The server that is tried now. */
  get origin() {
    return this._origins[this._at % this._origins.length];
  }

  _closed(code) {
    this._at++;
    super._closed(code);
  }

  /** Watch no more. */
  close() {
    this._end("ended");
  }

  _query() {
    return { after_seq: String(this._seq) };
  }

  _address() {
    const query = new URLSearchParams(this._query());
    if (this.target) query.set("target", this.target);
    return serverUrl(`/v1/streams/${this.stream}/${this._path}?${query}`, this.origin);
  }

  _opened() {
    this._tries = 0;
    this._become("open");
  }

  _received(event) {
    if (event.seq <= this._seq) return;
    this._seq = event.seq;
    this._tell("event", event);
    if (event.type === "done" || event.type === "error") this._end("ended");
  }

  /** Whether it may be watched and the stream is there. */
  async _refused() {
    const headers = authorization(this.key);
    const response = await fetch(new URL(`/v1/streams/${this.stream}`, this.origin), { headers });
    if (response.status === 404) return ["unknown_stream", await response.text()];
    const refused = await refusal(response);
    if (refused) return refused;
    const { source, targets } = await response.json();
    if (!this.target || [source, ...targets].includes(this.target)) return null;
    return ["unknown_language", `the stream is not translated into ${this.target}`];
  }
}

/**
 * The same as cues at a pace that can be read, for screens with a line or two.
 *
 * Dispatches `cue` (detail: lines of text) when a cue is due, with no lines when the screen is to be cleared.
 */
export class CueWatcher extends Watcher {
  /** @param {{stream: string, target?: string, origin?: string, key?: string,
   *   settings?: Record<string, string>}} options
   *   settings: `lines`, `width` and `roll_up`, as in docs/subtitles.md */
  constructor({ settings = {}, ...options }) {
    super(options, "cues");
    this._settings = settings;
    this._timers = new Set();
    this._clearing = 0;
  }

  _query() {
    return this._settings;
  }

  _opened() {
    // All that is still to be shown comes again.
    this._timers.forEach(clearTimeout);
    this._timers.clear();
    super._opened();
  }

  _received({ start, end, server_time: now, lines }) {
    const timer = setTimeout(
      () => {
        this._timers.delete(timer);
        clearTimeout(this._clearing);
        this._clearing = setTimeout(() => this._tell("cue", []), 1000 * (end - Math.max(start, now)));
        this._tell("cue", lines);
      },
      1000 * Math.max(0, start - now),
    );
    this._timers.add(timer);
  }

  close() {
    this._timers.forEach(clearTimeout);
    clearTimeout(this._clearing);
    super.close();
  }

  _closed(code) {
    if (code === 1000) this._end("ended"); // what is not due yet is shown all the same
    else super._closed(code);
  }
}
