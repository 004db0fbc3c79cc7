// The part of MathJax 3 that this book uses, in one file: TeX (base, AMS, macros), CommonHTML with its fonts as woff2, and
// hidden MathML for screen readers. No menu, no loader. From the TypeScript sources, which bundle a quarter smaller. tools/vendor.py bundles it to _assets/vendor/mathjax/mathjax.js.
import { mathjax } from "mathjax-full/ts/mathjax.ts";
import { TeX } from "mathjax-full/ts/input/tex.ts";
import { CHTML } from "mathjax-full/ts/output/chtml.ts";
import { TeXFont } from "mathjax-full/ts/output/chtml/fonts/tex.ts";
import { browserAdaptor } from "mathjax-full/ts/adaptors/browserAdaptor.ts";
import { RegisterHTMLHandler } from "mathjax-full/ts/handlers/html.ts";
import { AssistiveMmlHandler } from "mathjax-full/ts/a11y/assistive-mml.ts";
import "mathjax-full/ts/input/tex/base/BaseConfiguration.ts";
import "mathjax-full/ts/input/tex/ams/AmsConfiguration.ts";
import "mathjax-full/ts/input/tex/boldsymbol/BoldsymbolConfiguration.ts";
import "mathjax-full/ts/input/tex/configmacros/ConfigMacrosConfiguration.ts";
import "mathjax-full/ts/input/tex/newcommand/NewcommandConfiguration.ts";

const fontURL = new URL("fonts", document.currentScript.src).href;
for (const rule of Object.values(TeXFont.defaultFonts)) {
  if (rule.src) rule.src = rule.src.replace('.woff") format("woff")', '.woff2") format("woff2")');
}

function typeset() {
  const options = window.MathJax ?? {};
  AssistiveMmlHandler(RegisterHTMLHandler(browserAdaptor()));
  const page = mathjax.document(document, {
    InputJax: new TeX({
      packages: ["base", "ams", "boldsymbol", "configmacros", "newcommand"],
      inlineMath: [["\\(", "\\)"]],
      displayMath: [["\\[", "\\]"]],
      macros: options.tex?.macros ?? {},
    }),
    OutputJax: new CHTML({ fontURL }),
  });
  page.findMath({ elements: [".math"] }).compile().getMetrics().typeset().updateDocument();
  document.documentElement.dataset.math = "done";
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", typeset);
else typeset();
