// The part of MathJax 3 that this book uses, in one file: TeX (base, AMS, macros), CommonHTML with its fonts as woff2, and
// hidden MathML for screen readers. No menu, no loader. tools/vendor.py bundles it to _assets/vendor/mathjax/mathjax.js.
import { mathjax } from "mathjax-full/js/mathjax.js";
import { TeX } from "mathjax-full/js/input/tex.js";
import { CHTML } from "mathjax-full/js/output/chtml.js";
import { TeXFont } from "mathjax-full/js/output/chtml/fonts/tex.js";
import { browserAdaptor } from "mathjax-full/js/adaptors/browserAdaptor.js";
import { RegisterHTMLHandler } from "mathjax-full/js/handlers/html.js";
import { AssistiveMmlHandler } from "mathjax-full/js/a11y/assistive-mml.js";
import "mathjax-full/js/input/tex/base/BaseConfiguration.js";
import "mathjax-full/js/input/tex/ams/AmsConfiguration.js";
import "mathjax-full/js/input/tex/boldsymbol/BoldsymbolConfiguration.js";
import "mathjax-full/js/input/tex/configmacros/ConfigMacrosConfiguration.js";
import "mathjax-full/js/input/tex/newcommand/NewcommandConfiguration.js";

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
