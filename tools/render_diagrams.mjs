// Draws every ```{mermaid} fence of the book once, as _assets/diagrams/NAME.svg (committed); readers and builds need no Node.
//
//     npm install --prefix tools
//     node tools/render_diagrams.mjs          all fences whose drawing is missing or stale
//     node tools/render_diagrams.mjs --all    all fences
//
// Mermaid's own style sheet is dropped: lines, colours and type come from section 7 of _assets/book.css, so that one drawing
// serves both themes. The classes "model" (the subject) and "quiet" (a remark) may be set with :::model and :::quiet.
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const root = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), "..");
const folder = path.join(root, "_assets", "diagrams");
const library = createRequire(import.meta.url).resolve("mermaid/dist/mermaid.min.js");
const fingerprint = (code) => crypto.createHash("sha1").update(code.trim()).digest("hex").slice(0, 12);

function fences(text) {
  const found = [];
  for (const [, body] of text.matchAll(/^```+\{mermaid\}\s*\n([\s\S]*?)^```/gm)) {
    const lines = body.split("\n");
    const options = Object.fromEntries(
      lines.map((line) => line.match(/^:(\w+):\s*(.*)$/)).filter(Boolean).map(([, key, value]) => [key, value.trim()]),
    );
    found.push({ name: options.name, code: lines.filter((line) => !/^:\w+:/.test(line)).join("\n").trim() });
  }
  return found;
}

function sources(directory) {
  return fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(directory, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith(".") ? [] : sources(file);
    if (entry.name.endsWith(".md")) return fences(fs.readFileSync(file, "utf8"));
    if (!entry.name.endsWith(".ipynb")) return [];
    return JSON.parse(fs.readFileSync(file, "utf8")).cells
      .filter((cell) => cell.cell_type === "markdown")
      .flatMap((cell) => fences([cell.source].flat().join("")));
  });
}

const landing = path.join(root, "index.md");
const all = sources(path.join(root, "chapters")).concat(fs.existsSync(landing) ? fences(fs.readFileSync(landing, "utf8")) : []);
const fresh = ({ name, code }) => {
  const file = path.join(folder, `${name}.svg`);
  return fs.existsSync(file) && fs.readFileSync(file, "utf8").slice(0, 200).includes(fingerprint(code));
};
const wanted = all.filter((diagram) => process.argv.includes("--all") || !fresh(diagram));
fs.mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
const font = fs.readFileSync(path.join(root, "_assets/vendor/fonts/sans-latin.woff2")).toString("base64");
for (const { name, code } of wanted) {
  const page = await browser.newPage();
  await page.setContent(`<style>@font-face{font-family:"Book Sans";font-weight:400 650;
    src:url(data:font/woff2;base64,${font})}</style><p style="font-family:'Book Sans'">text</p>`);
  await page.evaluate(() => document.fonts.ready);
  await page.addScriptTag({ path: library });
  const svg = await page.evaluate(
    async ([code, name]) => {
      mermaid.initialize({
        startOnLoad: false, theme: "base", htmlLabels: false, deterministicIds: true, deterministicIDSeed: name,
        fontFamily: '"Book Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif', fontSize: 16,
        flowchart: { htmlLabels: false, curve: "basis", nodeSpacing: 26, rankSpacing: 34, padding: 12, wrappingWidth: 190 },
      });
      const { svg } = await mermaid.render(`d-${name}`, code);
      return svg
        .replace(/<style>.*?<\/style>/s, "")
        .replace(/ data-[\w-]+="[^"]*"/g, "")
        .replace(/<marker id="([^"]+)".*?<\/marker>/gs, (marker, id) => (svg.includes(`url(#${id})`) ? marker : ""))
        .replaceAll(`d-${name}`, name);
    },
    [code, name],
  );
  fs.writeFileSync(path.join(folder, `${name}.svg`), `<!-- drawn from ${fingerprint(code)} -->\n${svg}\n`);
  console.log(`${name}: ${svg.length} bytes`);
  await page.close();
}
await browser.close();
