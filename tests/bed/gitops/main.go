// How GitOps tools judge objects: kstatus, Argo CD's health scripts and Flux's health check expressions.
//
// Owns the set-up of each tool's own interpreter: kstatus as a library, Lua with the libraries that Argo CD opens for a
// script of its users, CEL through the package that Flux itself evaluates with. Knows no kind and no reason: what a
// verdict should be is said by the tests that call this program.
//
// Usage: gitops <folder of health scripts> <Kustomization> <object>...
//
// Prints one JSON object: for each file of an object its verdicts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	fluxstatus "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

// Longest time that Argo CD gives to a script.
const scriptTimeout = time.Second

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
}

type verdicts struct {
	Kstatus verdict `json:"kstatus"`
	ArgoCD  verdict `json:"argoCD"`
	// Flux with the expressions of the Kustomization.
	Flux verdict `json:"flux"`
	// Flux without them: its own edition of kstatus.
	FluxDefault verdict `json:"fluxDefault"`
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: gitops <folder of health scripts> <Kustomization> <object>...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "gitops:", err)
		os.Exit(1)
	}
}

func run(scripts, kustomization string, files []string) error {
	evaluators, err := readEvaluators(kustomization)
	if err != nil {
		return fmt.Errorf("%s: %w", kustomization, err)
	}
	all := map[string]verdicts{}
	for _, file := range files {
		judged, err := judge(scripts, evaluators, file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		all[file] = judged
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func judge(scripts string, evaluators map[string]*cel.StatusEvaluator, file string) (verdicts, error) {
	var found verdicts
	object, err := readObject(file)
	if err != nil {
		return found, err
	}
	plain, err := status.Compute(object)
	if err != nil {
		return found, fmt.Errorf("kstatus: %w", err)
	}
	found.Kstatus = verdict{Status: string(plain.Status), Message: plain.Message}

	fluxPlain, err := fluxstatus.Compute(object)
	if err != nil {
		return found, fmt.Errorf("kstatus of Flux: %w", err)
	}
	found.FluxDefault = verdict{Status: string(fluxPlain.Status), Message: fluxPlain.Message}

	evaluator, ok := evaluators[object.GetAPIVersion()+"/"+object.GetKind()]
	if !ok {
		return found, fmt.Errorf("the Kustomization has no healthCheckExprs for %s %s", object.GetAPIVersion(), object.GetKind())
	}
	if evaluated, err := evaluator.Evaluate(context.Background(), object); err != nil {
		// So Flux takes an expression that cannot be evaluated, and waits on.
		found.Flux = verdict{Status: string(fluxstatus.UnknownStatus), Message: err.Error()}
	} else {
		found.Flux = verdict{Status: string(evaluated.Status), Message: evaluated.Message}
	}

	group := object.GroupVersionKind().Group
	script, err := os.ReadFile(filepath.Join(scripts, group, object.GetKind(), "health.lua"))
	if err != nil {
		return found, err
	}
	found.ArgoCD, err = health(string(script), object)
	return found, err
}

func readObject(file string) (*unstructured.Unstructured, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	encoded, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, err
	}
	// As client-go reads objects: whole numbers are int64, which kstatus and CEL rely on.
	object := &unstructured.Unstructured{}
	return object, object.UnmarshalJSON(encoded)
}

func readEvaluators(file string) (map[string]*cel.StatusEvaluator, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var parsed struct {
		Spec struct {
			HealthCheckExprs []kustomize.CustomHealthCheck `json:"healthCheckExprs"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &parsed); err != nil {
		return nil, err
	}
	evaluators := map[string]*cel.StatusEvaluator{}
	for _, check := range parsed.Spec.HealthCheckExprs {
		evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
		if err != nil {
			return nil, fmt.Errorf("healthCheckExprs of %s: %w", check.Kind, err)
		}
		evaluators[check.APIVersion+"/"+check.Kind] = evaluator
	}
	return evaluators, nil
}

// health runs a script as Argo CD runs those of its ConfigMap: with the base and table libraries alone (it also offers two
// functions of os, which no script of ours needs), the object as the global obj, and one second of time.
func health(script string, object *unstructured.Unstructured) (verdict, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}} {
		call := lua.P{Fn: state.NewFunction(library.open), Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return verdict{}, err
		}
	}
	limited, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	state.SetContext(limited)
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return verdict{}, fmt.Errorf("health.lua: %w", err)
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return verdict{}, fmt.Errorf("health.lua gives a %s, not a table", state.Get(-1).Type())
	}
	says := verdict{Status: lua.LVAsString(answer.RawGetString("status")), Message: lua.LVAsString(answer.RawGetString("message"))}
	switch says.Status {
	case "Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown":
		return says, nil
	}
	return says, errors.New("health.lua gives a status that Argo CD does not know: " + says.Status)
}

// value is what a script sees of a JSON value.
func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case int64:
		return lua.LNumber(from)
	case float64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		list := state.CreateTable(len(from), 0)
		for _, item := range from {
			list.Append(value(state, item))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(from))
		for key, item := range from {
			table.RawSetString(key, value(state, item))
		}
		return table
	}
	return lua.LNil
}
