/** Subtitles over a picture, for browser sources of OBS and vMix: transparent, paced, a line or two. */

import { CueWatcher } from "./surtitle.js";

/** Query parameters, the custom properties that they set, and the CSS property whose values they take. */
const STYLE = {
  color: ["--text", "color"],
  background: ["--box", "color"],
  size: ["--size", "font-size"],
  font: ["--font", "font-family"],
  margin: ["--margin", "padding"],
  align: ["--align", "text-align"],
};
const PLACES = { top: "start", middle: "center", bottom: "end" };

const stream = location.pathname.split("/")[2];
const query = new URLSearchParams(location.search);
const root = document.documentElement;

for (const [name, [property, like]] of Object.entries(STYLE)) {
  const value = query.get(name);
  if (value && CSS.supports(like, value)) root.style.setProperty(property, value);
}
root.style.setProperty("--place", PLACES[query.get("position") ?? "bottom"] ?? "end");
root.dataset.outline = query.get("outline") ?? "0";

const settings = Object.fromEntries(
  ["lines", "width", "roll_up"].filter((name) => query.has(name)).map((name) => [name, query.get(name)]),
);
const watcher = new CueWatcher({ stream, target: query.get("target") ?? "", settings });
const cue = document.getElementById("cue");
watcher.addEventListener("cue", ({ detail: lines }) => {
  cue.replaceChildren(
    ...lines.map((line) => {
      const row = document.createElement("div");
      row.dir = "auto";
      row.appendChild(document.createElement("span")).textContent = line;
      return row;
    }),
  );
});
watcher.addEventListener("state", () => (document.body.dataset.state = watcher.state));
watcher.start();
