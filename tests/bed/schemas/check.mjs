// Checks objects against the published types of their kinds, unknown fields refused: `check.mjs <folder of node_modules> < objects.json`.
//
// The types come from each project's CRDs. The compiler of TypeScript is the judge: an object literal may only have fields that its
// type knows. Prints what is wrong and ends with 1, or prints how many objects it checked.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const KINDS = {
  "argoproj.io/v1alpha1 Application": ["@kubernetes-models/argo-cd/argoproj.io/v1alpha1", "IApplication"],
  "kustomize.toolkit.fluxcd.io/v1 Kustomization": ["@kubernetes-models/flux-cd/kustomize.toolkit.fluxcd.io/v1", "IKustomization"],
  "source.toolkit.fluxcd.io/v1 GitRepository": ["@kubernetes-models/flux-cd/source.toolkit.fluxcd.io/v1", "IGitRepository"],
  "monitoring.coreos.com/v1 ServiceMonitor": ["@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1", "IServiceMonitor"],
  "monitoring.coreos.com/v1 PrometheusRule": ["@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1", "IPrometheusRule"],
};

const packages = process.argv[2];
const objects = JSON.parse(readFileSync(0, "utf8"));
const lines = objects.map((object, number) => {
  const kind = `${object.apiVersion} ${object.kind}`;
  if (!(kind in KINDS)) {
    console.log(`no types are known of ${kind}`);
    process.exit(1);
  }
  const [module, type] = KINDS[kind];
  return `export const object${number}: import("${module}").${type} = ${JSON.stringify(object, null, 1)};`;
});
const folder = mkdtempSync(join(packages, "check-"));
try {
  writeFileSync(join(folder, "objects.ts"), lines.join("\n"));
  const compiler = join(packages, "node_modules/typescript/bin/tsc");
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"];
  execFileSync(process.execPath, [compiler, ...options, join(folder, "objects.ts")], { encoding: "utf8", timeout: 120_000 });
  console.log(`${objects.length} objects`);
} catch (error) {
  console.log(error.stdout || error.message);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
