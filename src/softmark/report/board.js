// The leaderboard: every choice ranks the methods anew.
const filters = document.querySelector(".filters");

const format = (p) => p === null ? "no p" : p >= .01 ? `p ${p.toFixed(3)}` : `p ${p.toExponential(1)}`;

function median(values) {
  const sorted = values.map((p) => p ?? 1).sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// What is left of one method under one attack, held to the level that was chosen.
function read([method, number, claims, ps, apart, place], attacks, level) {
  const kept = level ? ps.filter((p) => p !== null && p <= level).length : claims.reduce((a, b) => a + b, 0);
  return { method, attack: attacks[number], kept, keys: claims.length, share: kept / claims.length, p: median(ps), apart, place };
}

function square(cell) {
  const state = cell.apart ? "apart" : cell.share === 1 ? "kept" : cell.kept ? "part" : "lost";
  const why = { useless: ", the suspect lost more than 5 points", harmless: ", it keeps the order of answers" }[cell.apart] ?? "";
  const title = `${cell.attack.name}: ${cell.kept} of ${cell.keys} keys, ${format(cell.p)}${why}`;
  const node = make("button", [], { type: "button", class: `square ${state}`, title, "aria-label": title, "aria-haspopup": "dialog" });
  node.addEventListener("click", () => open(cell.place));
  return node;
}

// A method's cells that count, and the least of them.
function ranked(method, cells) {
  const counted = cells.filter((cell) => !cell.apart);
  const survived = counted.filter((cell) => cell.share === 1).length;
  const families = Map.groupBy ? Map.groupBy(counted, (cell) => cell.attack.family) : new Map();
  if (!Map.groupBy) for (const cell of counted) families.set(cell.attack.family, [...families.get(cell.attack.family) ?? [], cell]);
  const whole = [...families.values()].filter((some) => some.every((cell) => cell.share === 1)).length;
  const least = counted.reduce((worst, cell) =>
    !worst || cell.share < worst.share || (cell.share === worst.share && cell.p > worst.p) ? cell : worst, null);
  return { method, cells, counted: counted.length, survived, whole, families: families.size, least };
}

function order(a, b) {
  const [first, second] = [a, b].map((one) => one.least ? one.least.share : -1);
  const survived = b.survived / (b.counted || 1) - a.survived / (a.counted || 1);
  return second - first || survived || (a.least?.p ?? 1) - (b.least?.p ?? 1) || collator.compare(a.method, b.method);
}

function line(one, rank, columns) {
  const least = one.least
    ? [`least: ${one.least.kept} of ${one.least.keys} keys, ${format(one.least.p)}, after ${one.least.attack.name}`]
    : ["no attack that counts"];
  const tally = `survives ${one.survived} of ${one.counted} attacks, ${one.whole} of ${one.families} families whole`;
  const head = make("div", [
    make("span", String(rank), { class: "rank" }), make("h2", one.method),
    make("span", least, { class: "least" }), make("span", tally, { class: "tally" }),
  ], { class: "line" });
  const byName = new Map(one.cells.map((cell) => [cell.attack.name, cell]));
  const groups = columns.map(([family, names]) => make("div", [
    make("small", family),
    ...names.map((name) => byName.has(name) ? square(byName.get(name)) : make("span", [], { class: "square absent" })),
  ], { class: "group", style: `--count: ${names.length}` }));
  return make("li", [head, make("div", groups, { class: "strip" })]);
}

async function rank() {
  const { attacks, boards } = await load("board");
  const chosen = new FormData(filters), level = Number(chosen.get("level"));
  const [families, accesses] = ["family", "access"].map((name) => new Set(chosen.getAll(name)));
  const cells = boards[chosen.get("data")].map((cell) => read(cell, attacks, level))
    .filter((cell) => families.has(cell.attack.family) && accesses.has(cell.attack.access));
  const columns = [...families].map((family) => [family,
    [...new Set(cells.filter((cell) => cell.attack.family === family).map((cell) => cell.attack.name))]])
    .filter(([, names]) => names.length);
  const methods = [...new Set(cells.map((cell) => cell.method))]
    .map((method) => ranked(method, cells.filter((cell) => cell.method === method))).sort(order);
  document.querySelector(".board").replaceChildren(...methods.map((one, i) => line(one, i + 1, columns)));
  document.querySelector(".none").textContent = methods.length ? "" : "No attack of this choice was made on these data.";
}

function boxes(name, values) {
  const set = filters.elements[name];
  const last = set.querySelector("button");
  for (const value of values) {
    const label = make("label", [make("input", [], { type: "checkbox", name, value, checked: "" }), value]);
    last ? last.before(label) : set.append(label);
  }
}

async function begin() {
  const { attacks, boards, levels } = await load("board");
  filters.elements.data.append(...Object.keys(boards).map((name) => make("option", name)));
  filters.elements.level.append(...levels.map((p) => make("option", `p ≤ ${p >= .01 ? p : p.toExponential()} for all`, { value: p })));
  boxes("access", ["weights", "probabilities", "labels"].filter((one) => attacks.some(({ access }) => access === one)));
  boxes("family", [...new Set(attacks.map(({ family }) => family))]);
  filters.addEventListener("change", rank);
  filters.querySelector(".every").addEventListener("click", () => {
    const all = [...filters.querySelectorAll("[name=family][type=checkbox]")];
    const some = all.some((box) => !box.checked);
    for (const box of all) box.checked = some;
    rank();
  });
  await rank();
}
begin();
