"""`GET /ui`: the fleet at a glance, without a build step; it reads the same operator API that scripts read."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>cortex</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
 h1 { font-size: 1.2rem; } table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
 th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }
 .bad { color: #b00; } .good { color: #080; } small { color: #777; }
 @media (prefers-color-scheme: dark) { body { background: #151515; color: #ddd; } .good { color: #6c6; } }
</style>
<h1>cortex <small id="state"></small></h1>
<table><thead><tr><th>node</th><th>device</th><th>memory</th><th>models</th></tr></thead>
<tbody id="nodes"></tbody></table>
<table><thead><tr><th>model</th><th>status</th><th>on</th><th></th></tr></thead><tbody id="models"></tbody></table>
<script>
const cell = (row, text, kind) => {
  const td = row.insertCell(); td.textContent = text ?? ""; if (kind) td.className = kind; return td; };
async function show() {
  try {
    const [n, m] = await Promise.all(["nodes", "models"].map(p => fetch("/cortex/v1/" + p).then(r => r.json())));
    document.getElementById("state").textContent = "";
    const nodes = document.getElementById("nodes"); nodes.replaceChildren();
    for (const node of n.nodes) for (const d of node.devices.length ? node.devices : [{}]) {
      const row = nodes.insertRow();
      cell(row, node.name, node.healthy ? "good" : "bad").title = node.problem ?? "";
      cell(row, d.name); cell(row, d.total_mb ? `${d.free_mb} of ${d.total_mb} MiB free` : "");
      cell(row, node.models.map(p => `${p.model} (${p.status}, ${p.in_flight} in flight)`).join(", "));
    }
    const models = document.getElementById("models"); models.replaceChildren();
    for (const model of m.models) {
      const row = models.insertRow(); cell(row, model.id);
      cell(row, model.status, model.loaded ? "good" : model.status === "cold" ? "" : "bad");
      cell(row, model.locations.map(l => l.node).join(", ")); cell(row, model.reason);
    }
  } catch (error) { document.getElementById("state").textContent = "no answer: " + error; }
}
show(); setInterval(show, 2000);
</script></html>
"""
