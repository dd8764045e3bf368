// Choosing subnets to compare: the choice outlives the page, so that subnets of several pages can be set side by side.

import { byId } from "./dom.js";
import { counted } from "./words.js";

const MOST = 4;
const STORE = "onceforall-chosen";
const form = byId("compare");
const chosen = new Set(JSON.parse(sessionStorage.getItem(STORE) ?? "[]"));

if (form) {
  const button = form.querySelector("button");
  const boxes = [...form.querySelectorAll("input[name=id]")];

  const show = () => {
    sessionStorage.setItem(STORE, JSON.stringify([...chosen]));
    for (const box of boxes) {
      box.checked = chosen.has(box.value);
      box.disabled = !box.checked && chosen.size >= MOST;
      box.closest("tr").classList.toggle("chosen", box.checked);
    }
    button.disabled = chosen.size < 2;
    const elsewhere = [...chosen].filter((id) => !boxes.some((box) => box.value === id)).length;
    const more = elsewhere ? `, ${elsewhere} of them not on this page` : "";
    byId("chosen").replaceChildren(
      chosen.size === 0 ? `Choose 2 to ${MOST} subnets to set them side by side.` : `${counted(chosen.size, "subnet")} chosen${more}.`,
    );
    clear.hidden = chosen.size === 0;
  };

  const clear = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Choose none" });
  clear.addEventListener("click", () => {
    chosen.clear();
    show();
    boxes[0].focus();
  });
  button.before(clear);
  clear.parentElement.append(button);

  for (const box of boxes) {
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(box.value);
      else chosen.delete(box.value);
      show();
    });
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.href = `/subnets/compare?${new URLSearchParams([...chosen].map((id) => ["id", id]))}`;
  });
  show();
}
