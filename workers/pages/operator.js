/** The operator's page: a microphone or a file becomes a stream. */

import { Capture } from "./capture.js";
import { Captions, languageName } from "./captions.js";
import { authorization, refusal } from "./connection.js";
import { Speaker } from "./surtitle.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

const STATES = {
  connecting: "Connecting …",
  open: "Live",
  paused: "Paused",
  stopping: "Finishing …",
  reconnecting: "Connection lost, trying again; nothing said is lost",
  ended: "Finished",
  failed: "Ended by an error",
};

/** What can be shown in a header and as a subprotocol. */
const SHOWABLE = /^[\w.~+-]+$/;

/** @type {Speaker | null} */
let speaker = null;
/** @type {Capture | null} */
let capture = null;
/** @type {Map<string, Captions>} */
let panes = new Map();
let paused = false;
let stopping = false;
/** What the server is shown, if it wants anything; kept until the page is closed. */
let key = sessionStorage.getItem("key") ?? "";

/** Have a key entered. @param {string} sentence  what is the matter with the one that there was */
async function askKey(sentence) {
  sessionStorage.removeItem("key");
  complain(sentence);
  $("access").hidden = false;
  $("setup").hidden = true;
  $("key").focus();
  do {
    await new Promise((resolve) => $("access").addEventListener("submit", resolve, { once: true }));
    key = $("key").value.trim();
    if (!SHOWABLE.test(key)) complain("This is no key: keys are letters, digits and a few signs in one piece.");
  } while (!SHOWABLE.test(key));
  $("key").value = "";
  complain("");
}

/** Ask the server about itself, with a key if it wants one. */
async function info() {
  for (;;) {
    const response = await fetch("/v1/info", { headers: authorization(key) });
    const refused = await refusal(response);
    if (!refused) {
      if (key) sessionStorage.setItem("key", key);
      $("access").hidden = true;
      $("setup").hidden = false;
      return response.json();
    }
    await askKey(key ? `This key is not accepted (${refused[1]}).` : "");
  }
}

async function prepare() {
  const { model, languages } = await info();
  $("model").textContent = `Model: ${model}`;
  for (const code of languages) {
    $("source").add(new Option(languageName(code), code));
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", name: "target", value: code });
    label.append(box, ` ${languageName(code)}`);
    $("targets").append(label);
  }
  $("source").onchange = offerTargets;
  offerTargets();
  $("origin").value = location.origin;
  await listDevices();
}

function targetBoxes() {
  return /** @type {HTMLInputElement[]} */ ([...$("targets").querySelectorAll("input")]);
}

/** Nothing is translated into the language that is spoken; something has to be chosen. */
function offerTargets() {
  const boxes = targetBoxes();
  for (const box of boxes) {
    box.disabled = box.value === $("source").value;
    if (box.disabled) box.checked = false;
  }
  if (!boxes.some(({ checked }) => checked)) {
    const first = boxes.find(({ disabled }) => !disabled);
    if (first) first.checked = true;
  }
}

async function listDevices() {
  if (!navigator.mediaDevices) return; // only pages from https or this very machine may listen
  const chosen = $("device").value;
  const inputs = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "audioinput");
  const named = inputs.filter(({ label, deviceId }) => label && deviceId !== "default");
  $("device").replaceChildren(
    new Option("Default input", ""),
    ...named.map(({ label, deviceId }) => new Option(label, deviceId)),
  );
  $("device").value = named.some(({ deviceId }) => deviceId === chosen) ? chosen : "";
}

async function start() {
  const file = $("setup").elements.sound.value === "file" ? $("file").files[0] : null;
  const targets = targetBoxes().filter(({ checked }) => checked);
  if ($("setup").elements.sound.value === "file" && !file) return complain("Choose a file first.");
  if (!targets.length) return complain("Choose a language to translate into.");
  if (!file && !navigator.mediaDevices) {
    return complain("Browsers let only pages from https or from this very machine use the microphone.");
  }
  complain("");
  enable("starting");
  paused = stopping = false;
  capture = new Capture(send, finish);
  try {
    await capture.open(file, $("device").value);
  } catch (problem) {
    enable("idle");
    const what = file ? "This file cannot be played" : "The microphone cannot be used";
    return complain(`${what}: ${problem.message}`);
  }
  await listDevices(); // the names of inputs may be read now
  speaker = new Speaker({ key, source: $("source").value, targets: targets.map(({ value }) => value) });
  speaker.addEventListener("event", ({ detail }) => show(detail));
  speaker.addEventListener("state", tellState);
  speaker.addEventListener("problem", ({ detail }) => {
    if (detail.code !== "unauthorized" && detail.code !== "forbidden") {
      return complain(`${detail.message} (${detail.code})`);
    }
    askKey(`Nothing can be said with this key (${detail.message}).`)
      .then(info)
      .catch(tellSilence);
  });
  speaker.addEventListener("delay", ({ detail }) => {
    $("roundtrip").textContent = `${Math.round(1000 * detail)} ms`;
  });
  speaker.start();
  tellState();
  enable("running");
}

function send({ pcm, peak }) {
  speaker?.send(pcm);
  $("level").value = peak ? 20 * Math.log10(peak) : -60;
  const seconds = Math.floor(speaker?.seconds ?? 0);
  $("time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** The last frame of audio has come. */
function finish() {
  stopping = true;
  speaker?.stop();
  enable("stopping");
  tellState();
}

async function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) {
    await capture.pause();
    speaker.flush(); // who was cut short should be read to the end all the same
    $("level").value = -60;
  } else {
    await capture.resume();
  }
  tellState();
}

function tellState() {
  const { state } = speaker;
  const doing = stopping ? "stopping" : paused ? "paused" : "open";
  $("state").textContent = STATES[state === "open" ? doing : state];
  document.body.dataset.state = state;
  if (speaker.over) {
    capture.stop();
    enable("idle");
    $("gate").dataset.open = "false";
    $("gate").textContent = "silence";
  }
}

/** Which controls can be used: of what is not running, the setup; of what is, the buttons. */
function enable(/** @type {"idle" | "starting" | "running" | "stopping"} */ now) {
  $("input").disabled = $("languages").disabled = $("start").disabled = now !== "idle";
  $("pause").disabled = $("stop").disabled = now !== "running";
  if (now !== "running") {
    $("pause").textContent = "Pause";
    $("pause").setAttribute("aria-pressed", "false");
  }
}

function show(event) {
  switch (event.type) {
    case "ready":
      if (document.body.dataset.stream !== event.stream_id) begin(event);
      break;
    case "speech_start":
    case "speech_end":
      $("gate").dataset.open = String(event.type === "speech_start");
      $("gate").textContent = event.type === "speech_start" ? "speech" : "silence";
      break;
    case "transcript":
      panes.get("")?.show(event);
      break;
    case "translation":
      panes.get(event.target)?.show(event);
      if (event.final && event.stable) tellDelay(event);
      break;
    case "status":
      $("behind").textContent = `${event.behind.toFixed(1)} s`;
      break;
    case "error":
      if (!event.fatal) complain(`${event.message} (${event.code})`);
  }
}

/** How long ago the sentence ended, by the sound that has been sent since. */
function tellDelay({ end }) {
  $("delay").textContent = `${(speaker.seconds - end).toFixed(1)} s`;
}

/** A stream has begun: panes for its text, links for its viewers. */
function begin({ stream_id: stream, source, targets }) {
  document.body.dataset.stream = stream;
  $("texts").replaceChildren();
  const spoken = pane("Transcript", source);
  panes = new Map([["", spoken], ...targets.map((target) => [target, pane("Translation", target)])]);
  $("behind").textContent = "–";
  $("delay").textContent = $("roundtrip").textContent = "–";
  $("language").replaceChildren(
    ...[...targets, source].map((code) => new Option(languageName(code), code)),
  );
  $("out").hidden = false;
  link();
  tellWhoMayWatch(stream).catch(tellSilence);
}

/** Links are of no use to an audience that would have to show a key. */
async function tellWhoMayWatch(/** @type {string} */ stream) {
  const { status } = await fetch(`/v1/streams/${stream}`);
  $("closed").hidden = status !== 401;
}

function pane(what, language) {
  const section = document.createElement("section");
  const title = section.appendChild(document.createElement("h2"));
  title.textContent = `${what}: ${languageName(language)}`;
  const text = section.appendChild(document.createElement("div"));
  text.className = "pane";
  text.tabIndex = 0; // or it could not be scrolled without a mouse
  text.setAttribute("role", "region");
  text.setAttribute("aria-label", title.textContent);
  $("texts").append(section);
  return new Captions(text, language);
}

function link() {
  const { stream } = document.body.dataset;
  if (!stream) return;
  const query = `target=${$("language").value}`;
  const at = (/** @type {string} */ path) => {
    try {
      return new URL(path, $("origin").value).href;
    } catch {
      return new URL(path, location.origin).href; // while an address is being typed
    }
  };
  for (const [id, path] of [
    ["watch", `/watch/${stream}`],
    ["overlay", `/overlay/${stream}`],
    ["hls", `/v1/streams/${stream}.m3u8`],
  ]) {
    $(id).href = $(id).textContent = at(`${path}?${query}`);
  }
  $("qr").src = `/qr.svg?link=${encodeURIComponent($("watch").href)}`;
  for (const a of $("downloads").querySelectorAll("a")) {
    const { form } = a.dataset;
    a.href = `/v1/streams/${stream}.${form}${form === "json" ? "" : `?${query}`}`;
    a.download = `${stream}${form === "json" ? "" : `.${$("language").value}`}.${form}`;
  }
}

function tellSilence(/** @type {Error} */ problem) {
  complain(`The server does not answer: ${problem.message}`);
}

/** A link cannot show a key, so what it leads to is fetched and then saved. */
async function download(/** @type {HTMLAnchorElement} */ { href, download: name }) {
  const response = await fetch(href, { headers: authorization(key) });
  if (!response.ok) return complain(`There is nothing to download: ${await response.text()}`);
  const saved = document.createElement("a");
  Object.assign(saved, { href: URL.createObjectURL(await response.blob()), download: name });
  saved.click();
  URL.revokeObjectURL(saved.href);
}

function complain(/** @type {string} */ sentence) {
  $("problem").textContent = sentence;
  $("problem").hidden = !sentence;
}

$("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
$("access").addEventListener("submit", (event) => event.preventDefault());
$("downloads").addEventListener("click", (event) => {
  if (!key || !(event.target instanceof HTMLAnchorElement)) return;
  event.preventDefault();
  download(event.target).catch(tellSilence);
});
$("pause").addEventListener("click", pause);
$("stop").addEventListener("click", () => capture?.stop());
$("language").addEventListener("change", link);
$("origin").addEventListener("input", link);
$("file").addEventListener("change", () => ($("setup").elements.sound.value = "file"));
window.addEventListener("beforeunload", (event) => {
  if (speaker && !speaker.over) event.preventDefault();
});
prepare().catch(tellSilence);
