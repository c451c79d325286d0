/** What connections of surtitle.js have in common: they show a key and are opened again when they break. */

const SUBPROTOCOL = "surtitle.v1";

/** A close of these says that another try would end the same way: refused, or taken over by another. */
const FINAL_CODES = new Set([1000, 1008, 4409]);

/** @typedef {"connecting" | "open" | "reconnecting" | "ended" | "failed"} State */

/** Seconds before the next try: 0.25, 0.5, ... 8, each made up to a half shorter so that clients spread. */
export function backOff(tries) {
  return Math.min(8, 0.25 * 2 ** tries) * (1 - Math.random() / 2);
}

/** The address of the server that a page came from, as one for WebSockets. */
export function serverUrl(path = "/v1/stream", origin = location.origin) {
  return new URL(path, origin.replace(/^http/, "ws")).href;
}

/** Headers that show a key or token, if there is one. @returns {Record<string, string>} */
export function authorization(/** @type {string} */ key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Why somebody was not let in who showed what he did, if that is what the server answered.
 * @returns {Promise<[string, string] | null>}  `unauthorized` or `forbidden`, and a sentence
 */
export async function refusal(/** @type {Response} */ response) {
  if (response.status !== 401 && response.status !== 403) return null;
  const [, code, sentence] = /^(\w+): (.*)/.exec(await response.text()) ?? ["", "forbidden", "not let in"];
  return [code, sentence];
}

/**
 * A WebSocket that is opened again when it breaks. Subclasses say where to and what is said.
 *
 * Dispatches `state` (detail: State) and `problem` (detail: {code, message}).
 */
export class Connection extends EventTarget {
  constructor(/** @type {string} */ key) {
    super();
    /** Key or token to show, if any; another one is shown from the next connection on. */
    this.key = key;
    /** @type {State} */
    this.state = "connecting";
    /** @type {WebSocket | null} */
    this._socket = null;
    this._tries = 0;
    this._timer = 0;
    this._heard = 0;
  }

  _open() {
    const bearer = this.key ? [`surtitle.bearer.${this.key}`] : [];
    const socket = new WebSocket(this._address(), [SUBPROTOCOL, ...bearer]);
    socket.binaryType = "arraybuffer";
    this._socket = socket;
    this._heard = performance.now();
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this._opened();
    };
    socket.onmessage = ({ data }) => {
      this._heard = performance.now();
      this._received(JSON.parse(data));
    };
    socket.onclose = async ({ code }) => {
      const problem = opened ? null : await this._refused().catch(() => null);
      if (socket !== this._socket || this.over) return;
      if (problem) this._fail(...problem);
      else this._closed(code);
    };
  }

  /**
   * Why it could not be opened, if another try would end the same way. Browsers do not tell why a WebSocket was
   * refused, so the same is asked over HTTP.
   */
  async _refused() {
    const address = this._address().replace(/^ws/, "http");
    return refusal(await fetch(address, { headers: authorization(this.key) }));
  }

  /** Give a connection up that may not know yet that it is broken, and open another. */
  reconnect() {
    const socket = this._socket;
    if (!socket || this.over) return;
    this._socket = null;
    socket.onmessage = null;
    socket.close(4000);
    this._closed(1006);
  }

  /** Whether there is nothing more to come. */
  get over() {
    return this.state === "ended" || this.state === "failed";
  }

  _closed(code) {
    this._socket = null;
    if (this.over) return;
    if (FINAL_CODES.has(code)) return this._fail("closed", `the server closed the connection (${code})`);
    this._become("reconnecting");
    this._timer = setTimeout(() => this._open(), 1000 * backOff(this._tries++));
  }

  _become(/** @type {State} */ state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  _fail(code, message) {
    this._end("failed", { code, message });
  }

  _end(/** @type {State} */ state, problem = null) {
    clearTimeout(this._timer);
    if (problem) this.dispatchEvent(new CustomEvent("problem", { detail: problem }));
    this._become(state);
    this._socket?.close(1000);
  }

  _tell(type, event) {
    this.dispatchEvent(new CustomEvent(type, { detail: event }));
  }
}
