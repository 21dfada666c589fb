#!/bin/bash
# usage: run.sh SOURCE_DIR BUILD_DIR
# Renders the report of record.json in headless Chromium: is everything there, does nothing of the record run, does it fit
# a phone, is there a night. FK_CHROMIUM names another browser of that family.
set -euo pipefail
source=$1 build=$2 folder=$2/report
browser=${FK_CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$browser" ]; then
  echo "FAILED: no Chromium here, without which nothing shows how the report looks. tools/setup.sh installs it; FK_CHROMIUM names one."
  exit 1
fi
rm -rf "$folder"
mkdir -p "$folder"
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

fail() {
  echo "FAILED: $*"
  exit 1
}
# File pages may look into frames of other files only by a switch; root needs --no-sandbox.
render() {
  timeout 120 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run \
    --allow-file-access-from-files --user-data-dir="$profile" "$@" 2>"$folder/browser.log" ||
    fail "the browser: $(tail -n 3 "$folder/browser.log")"
}

"$build/fastkernels" report "$source/tests/report/record.json" --html "$folder/report.html"
page=file://$folder/report.html

# What the browser made of it.
render --dump-dom "$page" >"$folder/dom.html"
count() {
  local found
  found=$({ grep -o "$2" "$folder/dom.html" || true; } | wc -l)
  [ "$found" = "$1" ] || fail "expected $1 of $2 in the rendered page, found $found"
}
count 6 '<section class="card row"'
count 15 '<article class="case"'
count 6 '<svg class="samples"'
count 6 '<svg class="interval"'
count 2 'roofline" viewBox'
count 1 'skinny_16_2k 10.04 us; cublaslt 11.04 us &lt;script'
count 0 '<script'
count 0 '<img'
count 1 '<title>rms_norm – fastkernels bench</title>'

# Its geometry, at the widths of a phone, a tablet and a desktop.
cat >"$folder/measure.html" <<HTML
<!DOCTYPE html><body><script>
const widths = [360, 768, 1200];
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style = "border:0;height:800px;width:" + width + "px";
  frame.onload = () => {
    const d = frame.contentDocument, view = frame.contentWindow;
    const wide = [...d.querySelectorAll("body *")].filter(e => {
      const box = e.getBoundingClientRect();
      return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
    });
    const seen = name => view.getComputedStyle(d.querySelector("svg." + name)).display != "none";
    const flat = [...d.querySelectorAll("svg.samples")].filter(e => e.getBoundingClientRect().height < 40);
    const p = document.createElement("p");
    p.textContent = "width=" + width + " scroll=" + d.documentElement.scrollWidth + " outside=" + wide.length +
      (wide.length ? " (" + wide[0].tagName + "." + wide[0].className + ")" : "") + " wide=" + seen("wide") + " narrow=" +
      seen("narrow") + " flat=" + flat.length + " scripts=" + d.scripts.length + " owned=" + d.title.includes("owned") + ".";
    document.body.append(p);
  };
  frame.src = "report.html";
  document.body.append(frame);
}
</script></body>
HTML
render --virtual-time-budget=10000 --dump-dom "file://$folder/measure.html" | grep -o 'width=[^<]* owned=[a-z]*\.' |
  sort -t= -k2n >"$folder/measured.txt" || fail "the page could not be measured"
for width in 360 768 1200; do
  [ $width = 360 ] && shown="wide=false narrow=true" || shown="wide=true narrow=false"
  grep -qxF "width=$width scroll=$width outside=0 $shown flat=0 scripts=0 owned=false." "$folder/measured.txt" ||
    fail "at $width px: $(grep "^width=$width " "$folder/measured.txt" || echo nothing measured)"
done

# Its looks, for the eye; the night must differ from the day.
echo "<!DOCTYPE html><body style='margin:0'><iframe src='report.html' style='width:360px;height:4000px;border:0'></iframe>" >"$folder/phone.html"
render --window-size=1200,3600 --screenshot="$folder/day.png" "$page"
render --window-size=1200,3600 --blink-settings=preferredColorScheme=0 --screenshot="$folder/night.png" "$page"
render --window-size=500,4000 --screenshot="$folder/phone.png" "file://$folder/phone.html"
for shot in day night phone; do
  [ "$(head -c 4 "$folder/$shot.png" | tail -c 3)" = PNG ] || fail "no screenshot: $shot.png"
  [ "$(stat -c %s "$folder/$shot.png")" -gt 50000 ] || fail "$shot.png is blank"
done
cmp -s "$folder/day.png" "$folder/night.png" && fail "the page does not follow prefers-color-scheme"
echo "screenshots: $folder/{day,night,phone}.png"
