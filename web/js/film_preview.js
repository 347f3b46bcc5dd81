// What Save Film shows for formats that browsers do not play (H.265, ProRes, FFV1).
//
// The server sends a small copy beside the film (nodes/runtime/film_previews.py); the page shows the
// copy. This listens from when the file is loaded, which is before the page's own listener.
import { api } from "../../../scripts/api.js";

const NAME = "troupe_preview_";

api.addEventListener("executed", ({ detail }) => {
  const output = detail?.output;
  const copy = output?.preview?.[0];
  if (output?.images && copy?.type === "temp" && copy.filename?.startsWith(NAME)) {
    output.images = output.preview;
  }
});
