// The surface of a node of ours: one DOM widget that says what its inputs come to, what went
// wrong and what the last run reported. It works in both renderers of the front end.
//
// The widget exists only while there is something to show. It is neither in the workflow file nor
// in a prompt, and without this file the nodes are the same.
import { app } from "../../../scripts/app.js";

const REPORT_PX = 150; // of a long report; the rest is scrolled to, or the node made taller
const LINE_PX = 17;
const EDGE_PX = 14; // padding above and below
const GAP_PX = 6;
const CANVAS_MARGIN_PX = 12; // what the canvas takes off the height it was asked for

/** A child of `parent` with a class and a text. */
export function add(parent, tag, name = "", text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  parent.append(element);
  return element;
}

/** A button that does not drag the node along. */
export function addButton(parent, text, action) {
  const button = add(parent, "button", "troupe-button", text);
  button.type = "button";
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    action(button);
  });
  return button;
}

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text; // keeps what is selected
  element.hidden = !text;
};

export class Surface {
  /**
   * part: { build(surface), show(), quiet(), wanted() } of a node that shows more, or nothing;
   * refresh: shows what is known of the node now.
   */
  constructor(node, part, refresh) {
    this.node = node;
    this.part = part;
    this.refresh = () => refresh(this);
    this.least = 0; // height in pixels that the content asks for
    this.element = document.createElement("div");
    this.element.className = "troupe";
    this.more = addButton(this.element, "", () => this.toggleAdvanced());
    this.facts = add(this.element, "div", "facts text");
    this.picture = add(this.element, "img", "picture");
    this.picture.alt = "";
    part?.build(this);
    this.warnings = add(this.element, "div", "warnings text");
    this.problem = add(this.element, "div", "problem");
    this.problem.setAttribute("role", "alert");
    this.wrong = add(this.problem, "div", "wrong text");
    addButton(this.problem, "Copy", (button) => this.copy(button, this.wrong));
    this.buildReport();
    this.keepEventsHere();
    new ResizeObserver(() => this.measure()).observe(this.element);
  }

  buildReport() {
    this.report = add(this.element, "div", "report");
    const head = add(this.report, "div", "head");
    add(head, "span", "label", "Last run");
    addButton(head, "Copy", (button) => this.copy(button, this.said));
    this.scroller = add(this.report, "div", "scroller text");
    this.scroller.tabIndex = 0;
    this.scroller.setAttribute("role", "region");
    this.scroller.setAttribute("aria-label", "Report of the last run");
    this.said = add(this.scroller, "div", "said");
  }

  /** Text can be selected, copied and scrolled; everything else of the mouse is the canvas's. */
  keepEventsHere() {
    for (const type of ["pointerdown", "mousedown", "copy"]) {
      this.element.addEventListener(type, (event) => {
        if (event.target.closest?.(".text, button, a, input")) event.stopPropagation();
      });
    }
    this.element.addEventListener("wheel", (event) => {
      const scroller = event.target.closest(".scroller");
      if (scroller && scroller.scrollHeight > scroller.clientHeight) event.stopPropagation();
      else if (!LiteGraph.vueNodesMode) app.canvas.processMouseWheel(event);
    });
  }

  /** Show what is known of the node now. */
  show({ facts = [], warnings = [], idle = [], picture = "" }, { report = "", error = "" }, refused) {
    this.hideWidgets(idle);
    this.part?.show(this);
    const problem = [...refused, error].filter(Boolean).join("\n");
    setText(this.more, this.advancedLabel());
    setText(this.facts, this.part?.quiet?.() ? "" : facts.join("\n"));
    setText(this.warnings, warnings.filter((w) => !problem.includes(w)).join("\n"));
    setText(this.wrong, problem);
    this.problem.hidden = !problem;
    setText(this.said, report);
    this.report.hidden = !report;
    this.element.classList.toggle("tall", Boolean(report) || Boolean(this.part?.tall?.()));
    this.element.classList.toggle("vue", Boolean(LiteGraph.vueNodesMode));
    if (this.picture.getAttribute("src") !== picture) this.picture.src = picture;
    this.picture.hidden = !picture;
    const something = Boolean(facts.length || warnings.length || problem || report || picture);
    this.element.classList.toggle("says", something);
    if (something || !this.more.hidden || this.part?.wanted()) this.attach();
    else this.detach();
    this.element.dataset.node = this.node.id;
    requestAnimationFrame(() => this.measure());
  }

  /** A new node is as tall as what is in sight, not as all of its widgets. */
  fit() {
    this.refresh();
    const height = LiteGraph.vueNodesMode ? this.atLeast() : this.node.computeSize()[1];
    this.node.setSize?.([this.node.size[0], height]);
  }

  /** Less than the other renderer needs: it measures, and makes nodes taller but never smaller. */
  atLeast() {
    const { inputs = [], outputs = [], widgets = [] } = this.node;
    const slots = Math.max(inputs.filter((i) => !i.widget).length, outputs.length);
    const rows = widgets.filter((w) => !w.options?.advanced && !w.options?.hidden).length;
    return 40 + 20 * slots + 24 * rows;
  }

  // ------------------------------------------------------------------------------------- the widget

  attach() {
    if (this.widget) return;
    this.widget = this.node.addDOMWidget("troupe_surface", "troupe_surface", this.element, {
      serialize: false,
      hideOnZoom: false,
      getValue: () => "",
      setValue: () => {},
      getMinHeight: () =>
        (this.least || this.estimate()) + (LiteGraph.vueNodesMode ? 0 : CANVAS_MARGIN_PX),
    });
    this.widget.serialize = false; // neither in the workflow file nor in the prompt
    this.grow();
  }

  detach() {
    if (!this.widget) return;
    this.node.removeWidget?.(this.widget);
    this.widget = null;
    this.least = 0;
  }

  /** The height before the page has laid it out. */
  estimate() {
    const lines = this.element.innerText.split("\n").length;
    return EDGE_PX + Math.min(lines * LINE_PX, REPORT_PX);
  }

  measure() {
    if (!this.widget || !this.element.offsetWidth) return; // not on the page
    let height = EDGE_PX - GAP_PX;
    for (const child of this.element.children) {
      if (!child.offsetHeight) continue;
      height += GAP_PX + (Number(child.dataset.least) || child.offsetHeight);
    }
    if (!this.report.hidden) {
      const text = Math.min(this.said.offsetHeight, REPORT_PX);
      height += this.report.firstChild.offsetHeight + text + 4 - this.report.offsetHeight;
    }
    if (Math.abs(height - this.least) >= 2) this.least = Math.ceil(height);
    this.grow();
  }

  /** Make the node tall enough for all it holds; the other renderer does so by itself. */
  grow() {
    if (LiteGraph.vueNodesMode) return;
    const [width, height] = this.node.size;
    const least = this.node.computeSize?.()[1] ?? height;
    if (least <= height) return;
    this.node.setSize?.([width, least]);
    this.node.setDirtyCanvas?.(true, true);
  }

  // ------------------------------------------------------------------------------ the other widgets

  /**
   * Widgets that mean nothing for the present inputs are out of sight; their values stay. The
   * canvas leaves advanced ones in sight and has no button for them, so it gets both here.
   */
  hideWidgets(idle) {
    const folded = !LiteGraph.vueNodesMode && !this.node.showAdvanced;
    let changed = false;
    for (const widget of this.node.widgets ?? []) {
      if (widget === this.widget || !widget.options) continue;
      const meaningless = idle.includes(widget.name);
      const hide = meaningless || (folded && Boolean(widget.options.advanced));
      if (hide === Boolean(widget.troupeHidden) && meaningless === Boolean(widget.troupeIdle)) continue;
      changed = true;
      widget.troupeIdle = widget.options.hidden = meaningless; // what the other renderer goes by
      widget.troupeHidden = widget.hidden = hide; // in newer front ends the same: this one last
    }
    if (changed) this.grow();
  }

  /** What the button for advanced widgets says, "" where the front end has its own. */
  advancedLabel() {
    const advanced = (this.node.widgets ?? []).filter((w) => w.options?.advanced && !w.troupeIdle);
    if (LiteGraph.vueNodesMode || !advanced.length) return "";
    if (this.node.showAdvanced) return "Fewer settings";
    return advanced.length === 1 ? "1 more setting" : `${advanced.length} more settings`;
  }

  toggleAdvanced() {
    this.node.showAdvanced = !this.node.showAdvanced;
    this.fit();
  }

  async copy(button, from) {
    try {
      await navigator.clipboard.writeText(from.textContent);
    } catch {
      getSelection().selectAllChildren(from); // without https: select it, and copy that
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
}
