/** The viewers' page: large subtitles of one stream in a language of one's choice. */

import { Captions, languageName } from "./captions.js";
import { refusal } from "./connection.js";
import { Watcher } from "./surtitle.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const STATES = {
  connecting: "Connecting …",
  open: "Live",
  reconnecting: "Connection lost, trying again …",
  ended: "The event has ended",
  failed: "These subtitles are not there (any more)",
  locked: "These subtitles can be read with a key only; ask whoever gave you the link",
};
/** Announced sentences are removed again, for nobody goes back to them: they stand in the text. */
const ANNOUNCED = 20;

const stream = location.pathname.split("/")[2];
const query = new URLSearchParams(location.search);
if (query.get("overlay") === "1") {
  query.delete("overlay");
  location.replace(`/overlay/${stream}?${query}`);
}

/** @type {Watcher | null} */
let watcher = null;
const text = $("text");

function watch(/** @type {string} */ target, /** @type {number} */ lastSeq) {
  watcher?.close();
  text.replaceChildren();
  $("announced").replaceChildren();
  const captions = new Captions(text, target);
  const watching = new Watcher({ stream, target });
  watcher = watching;
  let failed = "failed";
  watching.addEventListener("problem", ({ detail: { code } }) => {
    if (code === "unauthorized" || code === "forbidden") failed = "locked";
  });
  watching.addEventListener("state", () => {
    if (watcher === watching) tell(watching.state === "failed" ? failed : watching.state);
  });
  watching.addEventListener("event", ({ detail: event }) => {
    if (event.type !== "transcript" && event.type !== "translation") return;
    captions.show(event);
    // What was said before one came is to be read, not to be listened to.
    if (event.final && event.stable && event.seq > lastSeq) announce(event.stable, target);
  });
  watching.start();
}

/** Have screen readers say a sentence once it is complete. */
function announce(/** @type {string} */ sentence, /** @type {string} */ language) {
  const paragraph = document.createElement("p");
  paragraph.lang = language;
  paragraph.textContent = sentence;
  $("announced").append(paragraph);
  while ($("announced").childElementCount > ANNOUNCED) $("announced").firstElementChild.remove();
}

function tell(/** @type {string} */ state) {
  $("state").textContent = STATES[state];
  document.body.dataset.state = state;
}

/** Appearance is kept in the address, so that a link brings it along. */
function keep(/** @type {string} */ name, /** @type {string} */ value) {
  if (value) query.set(name, value);
  else query.delete(name);
  history.replaceState(null, "", `?${query}`);
  dress();
}

function dress() {
  const { style, dataset } = document.documentElement;
  dataset.theme = query.get("theme") ?? "auto";
  for (const name of ["color", "background"]) {
    const value = query.get(name) ?? "";
    const property = name === "color" ? "--text" : "--background";
    if (CSS.supports("color", value)) style.setProperty(property, value);
    else style.removeProperty(property);
  }
  const size = Number(query.get("size"));
  if (size >= 0.5 && size <= 20) style.setProperty("--size", `${size}rem`);
}

function hex(/** @type {string} */ property) {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = getComputedStyle(document.body)[property];
  return context.fillStyle;
}

async function prepare() {
  dress();
  const response = await fetch(`/v1/streams/${stream}`);
  if (await refusal(response)) return tell("locked");
  if (response.status === 404) return tell("failed");
  const { source, targets, last_seq: lastSeq } = await response.json();
  const languages = [...targets, source];
  for (const code of languages) $("language").add(new Option(languageName(code), code));
  const wanted = query.get("target") ?? "";
  $("language").value = languages.includes(wanted) ? wanted : languages[0];
  $("language").addEventListener("change", async () => {
    keep("target", $("language").value);
    const now = await (await fetch(`/v1/streams/${stream}`)).json();
    watch($("language").value, now.last_seq);
  });
  $("theme").value = document.documentElement.dataset.theme;
  $("size").value = query.get("size") ?? parseFloat(getComputedStyle(text).fontSize) / 16;
  $("color").value = hex("color");
  $("background").value = hex("backgroundColor");
  for (const id of ["size", "theme", "color", "background"]) {
    $(id).addEventListener("input", () => keep(id, $(id).value));
  }
  $("plain").addEventListener("click", () => ["color", "background"].forEach((name) => keep(name, "")));
  watch($("language").value, lastSeq);
}

/** Until the server answers, as after a break. */
async function untilPrepared() {
  for (let tries = 0; ; tries++) {
    try {
      return await prepare();
    } catch {
      tell("reconnecting");
      await new Promise((resolve) => setTimeout(resolve, Math.min(8000, 500 * 2 ** tries)));
    }
  }
}

untilPrepared();
