"use strict";
(() => {
  const bar = document.querySelector(".judging");
  const cards = [...document.querySelectorAll(".finding")];
  const rows = cards.map((card) => JSON.parse(card.dataset.row));
  const columns = JSON.parse(bar.dataset.columns);
  const place = columns.indexOf("judged");
  const store = `maskcls audit ${bar.dataset.digest}`;
  const status = bar.querySelector("p");
  const download = bar.querySelector("button");
  let judged = load();
  let current = Math.max(0, cards.findIndex((_, number) => !judged[number]));

  // What was judged survives a reload, where the browser lets a file keep anything.
  function load() {
    try {
      return JSON.parse(localStorage.getItem(store)) || {};
    } catch {
      return {};
    }
  }

  function keep() {
    try {
      localStorage.setItem(store, JSON.stringify(judged));
    } catch {
      // Then only the download keeps it.
    }
  }

  function show() {
    cards.forEach((card, number) => {
      card.classList.toggle("current", number === current);
      for (const word of ["accepted", "rejected"]) {
        card.classList.toggle(word, judged[number] === word);
        card.querySelector(`[value=${word}]`).setAttribute("aria-pressed", judged[number] === word);
      }
    });
    const words = Object.values(judged);
    const accepted = words.filter((word) => word === "accepted").length;
    const rejected = words.length - accepted;
    status.textContent = `${words.length} of ${cards.length} judged: ${accepted} accepted, ${rejected} rejected`;
    download.disabled = !words.length;
  }

  function go(number) {
    current = Math.min(Math.max(number, 0), cards.length - 1);
    show();
    cards[current].focus({ preventScroll: true });
    cards[current].scrollIntoView({ block: "nearest" });
  }

  function judge(number, word) {
    if (word === "skipped") delete judged[number];
    else judged[number] = word;
    keep();
    go(number + 1);
  }

  function cell(text) {
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function csv() {
    const lines = rows.flatMap((row, number) => (judged[number] ? [row.with(place, judged[number])] : []));
    const all = [columns, ...JSON.parse(bar.dataset.earlier), ...lines];
    return all.map((row) => `${row.map(cell).join(",")}\n`).join("");
  }

  function save() {
    if (download.disabled) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "accepted.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const keys = {
    a: () => judge(current, "accepted"),
    r: () => judge(current, "rejected"),
    s: () => judge(current, "skipped"),
    j: () => go(current + 1),
    k: () => go(current - 1),
    ArrowDown: () => go(current + 1),
    ArrowUp: () => go(current - 1),
    d: save,
  };

  document.addEventListener("keydown", (event) => {
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  cards.forEach((card, number) => {
    card.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) judge(number, button.value);
    });
  });
  download.addEventListener("click", save);

  bar.hidden = false;
  document.querySelectorAll(".choices").forEach((choices) => {
    choices.hidden = false;
  });
  show();
})();
