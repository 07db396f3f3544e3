// Evaluates alert rules with the rule engine of Prometheus over scrapes that were taken of real processes.
//
// Only the passing of time is simulated: each scrape is stored at the second that the caller says, as Prometheus stores
// one, with `up`, `job` and `instance`, and with an end of the series that a later scrape does not have. Numbers are
// those of the scrapes.
//
//	alerts check RULES...           reads rule files strictly, and prints each alert as JSON
//	alerts expressions              reads a JSON list of expressions from stdin, and prints the metrics that each names
//	alerts evaluate RULES <scrapes  reads scrapes from stdin, and prints the alerts that fire at the end
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sort"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// The evaluation begins here; the epoch itself would put look-backs before zero.
const start = int64(1_000_000_000)

// How often rules are evaluated, in seconds.
const interval = 30

// scrape is what a target said at a second; no text is a scrape that failed.
type scrape struct {
	At       int64   `json:"at"`
	Instance string  `json:"instance"`
	Text     *string `json:"text"`
}

type alert struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
	Since  int64             `json:"since"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return errors.New("say check, expressions or evaluate")
	}
	switch files := os.Args[2:]; os.Args[1] {
	case "check":
		return check(files)
	case "expressions":
		return expressions()
	case "evaluate":
		return evaluate(files)
	default:
		return fmt.Errorf("%q is none of check, expressions, evaluate", os.Args[1])
	}
}

func newParser() parser.Parser { return parser.NewParser(parser.Options{}) }

type rule struct {
	Name        string            `json:"name"`
	Expression  string            `json:"expression"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func check(files []string) error {
	var found []rule
	for _, file := range files {
		groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, newParser(), promslog.NewNopLogger())
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		for _, group := range groups.Groups {
			for _, one := range group.Rules {
				found = append(found, rule{one.Alert, one.Expr, one.For.String(), one.Labels, one.Annotations})
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func expressions() error {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		return err
	}
	all := make([][]string, 0, len(texts))
	for _, text := range texts {
		expression, err := newParser().ParseExpr(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		names := map[string]bool{}
		parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
			if selector, ok := node.(*parser.VectorSelector); ok {
				for _, matcher := range selector.LabelMatchers {
					if matcher.Name == labels.MetricName {
						names[matcher.Value] = true
					}
				}
			}
			return nil
		})
		sorted := make([]string, 0, len(names))
		for name := range names {
			sorted = append(sorted, name)
		}
		sort.Strings(sorted)
		all = append(all, sorted)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func evaluate(files []string) error {
	var scrapes []scrape
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(input, &scrapes); err != nil {
		return err
	}
	if len(scrapes) == 0 {
		return errors.New("no scrapes")
	}
	sort.SliceStable(scrapes, func(i, j int) bool { return scrapes[i].At < scrapes[j].At })
	folder, err := os.MkdirTemp("", "alerts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	options := tsdb.DefaultOptions()
	options.RetentionDuration = math.MaxInt64 / 2
	db, err := tsdb.Open(folder, promslog.NewNopLogger(), nil, options, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: newParser()})
	ctx := context.Background()
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:    rules.EngineQueryFunc(engine, db),
		AppendableV2: db,
		Queryable:    db,
		Context:      ctx,
		NotifyFunc:   func(_ context.Context, _ string, _ ...*rules.Alert) {},
		Logger:       promslog.New(&promslog.Config{}),
		Parser:       newParser(),
	})
	groups, errs := manager.LoadGroups(interval*time.Second, labels.EmptyLabels(), "", nil, false, files...)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	previous := map[string]map[string]labels.Labels{}
	next := 0
	for now := scrapes[0].At; now <= scrapes[len(scrapes)-1].At; now += interval {
		for ; next < len(scrapes) && scrapes[next].At <= now; next++ {
			if err := keep(ctx, db, scrapes[next], previous); err != nil {
				return fmt.Errorf("scrape at %d: %w", scrapes[next].At, err)
			}
		}
		for _, group := range groups {
			group.Eval(ctx, time.Unix(start+now, 0))
			for _, one := range group.Rules() {
				if err := one.LastError(); err != nil {
					return fmt.Errorf("%s: %w", one.Name(), err)
				}
			}
		}
	}
	fired := []alert{}
	for _, group := range groups {
		for _, one := range group.AlertingRules() {
			for _, active := range one.ActiveAlerts() {
				if active.State == rules.StateFiring {
					fired = append(fired, alert{one.Name(), active.Labels.Map(), active.Value, active.FiredAt.Unix() - start})
				}
			}
		}
	}
	sort.Slice(fired, func(i, j int) bool { return fired[i].Name < fired[j].Name })
	return json.NewEncoder(os.Stdout).Encode(fired)
}

// keep stores a scrape as Prometheus does.
func keep(ctx context.Context, db *tsdb.DB, one scrape, previous map[string]map[string]labels.Labels) error {
	at := (start + one.At) * 1000
	appender := db.Appender(ctx)
	target := labels.FromStrings("instance", one.Instance, "job", "durable-operator")
	seen := map[string]labels.Labels{}
	up := 0.0
	if one.Text != nil {
		up = 1
		if err := samples(appender, []byte(*one.Text), target, at, seen); err != nil {
			return errors.Join(err, appender.Rollback())
		}
	}
	for name, series := range previous[one.Instance] {
		if _, ok := seen[name]; !ok {
			if _, err := appender.Append(0, series, at, math.Float64frombits(value.StaleNaN)); err != nil {
				return errors.Join(err, appender.Rollback())
			}
		}
	}
	previous[one.Instance] = seen
	series := labels.NewBuilder(target).Set(labels.MetricName, "up").Labels()
	if _, err := appender.Append(0, series, at, up); err != nil {
		return errors.Join(err, appender.Rollback())
	}
	return appender.Commit()
}

func samples(appender storage.Appender, text []byte, target labels.Labels, at int64, seen map[string]labels.Labels) error {
	lines, err := textparse.New(text, "application/openmetrics-text; version=1.0.0", nil, textparse.ParserOptions{})
	if err != nil {
		return err
	}
	for {
		entry, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, number := lines.Series()
		var own labels.Labels
		lines.Labels(&own)
		builder := labels.NewBuilder(own)
		// As with `honorLabels`: what the operator says of a TaskHub's namespace stands.
		target.Range(func(label labels.Label) {
			if own.Get(label.Name) == "" {
				builder.Set(label.Name, label.Value)
			}
		})
		series := builder.Labels()
		if _, err := appender.Append(0, series, at, number); err != nil {
			return err
		}
		seen[series.String()] = series
	}
}
