// The part of Load Pose's surface that takes a JSON file: by a button, or dropped on the node.
import { api } from "../../../scripts/api.js";
import { add, addButton } from "./surface.mjs";

const MOST_BYTES = 64 << 20;

export class PoseUploadPart {
  constructor(node) {
    this.node = node;
    node.onDragOver = (event) => [...(event?.dataTransfer?.items ?? [])].some(isFile);
    node.onDragDrop = (event) => {
      const file = [...(event?.dataTransfer?.files ?? [])].find(isPose);
      if (file) this.upload(file);
      return Boolean(file);
    };
  }

  build({ element }) {
    this.row = add(element, "div", "head");
    this.button = addButton(this.row, "Upload a pose (.json)", () => this.choose());
    this.said = add(this.row, "span", "status");
  }

  wanted = () => true;

  show() {}

  choose() {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = ".json,application/json";
    input.addEventListener("change", () => input.files[0] && this.upload(input.files[0]));
    input.click();
  }

  /** Into ComfyUI's input folder by its own route, which never writes over another file. */
  async upload(file) {
    this.said.textContent = await this.send(file).catch(() => "The server does not answer.");
  }

  async send(file) {
    if (file.size > MOST_BYTES) return `${file.name} is larger than 64 MB: split it.`;
    const body = new FormData();
    body.append("image", file);
    body.append("type", "input");
    const response = await api.fetchApi("/upload/image", { method: "POST", body });
    if (!response.ok) return `${file.name} was refused (${response.status}).`;
    const { name, subfolder } = await response.json();
    const widget = this.node.widgets.find((w) => w.name === "pose_file");
    const value = subfolder ? `${subfolder}/${name}` : name;
    const others = (widget.options.values ?? []).filter((v) => v !== value && !/^put /.test(v));
    widget.options.values = [value, ...others];
    widget.value = value;
    widget.callback?.(value);
    this.node.setDirtyCanvas?.(true, true);
    return "";
  }
}

const isFile = (item) => item.kind === "file";
const isPose = (file) => file.name.toLowerCase().endsWith(".json");
