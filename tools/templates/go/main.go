// Runs the cases of store/tests/goldens/templates.json through Go's own text/template and writes down what comes out.
//
//	go run tools/templates/go/main.go store/tests/goldens/templates.json
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type goldens struct {
	Data  any      `json:"data"`
	Cases []golden `json:"cases"`
}

type golden struct {
	Name     string `json:"name"`
	Template string `json:"template"`
	Expected string `json:"expected,omitempty"`
	// Whether Go refuses to read or run it.
	Fails bool `json:"fails,omitempty"`
}

// Whole numbers of JSON as ints, as Go programs have them.
func typed(value any) any {
	switch value := value.(type) {
	case float64:
		if value == float64(int(value)) {
			return int(value)
		}
	case []any:
		for i := range value {
			value[i] = typed(value[i])
		}
	case map[string]any:
		for key := range value {
			value[key] = typed(value[key])
		}
	}
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func run(text string, data any) (string, error) {
	functions := template.FuncMap{"json": func(value any) string {
		bytes, err := json.Marshal(value)
		check(err)
		return string(bytes)
	}}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = parsed.Execute(&out, data)
	return out.String(), err
}

func main() {
	path := os.Args[1]
	bytes, err := os.ReadFile(path)
	check(err)
	var goldens goldens
	check(json.Unmarshal(bytes, &goldens))
	for i := range goldens.Cases {
		golden := &goldens.Cases[i]
		expected, err := run(golden.Template, typed(goldens.Data))
		golden.Expected, golden.Fails = expected, err != nil
		if err != nil {
			golden.Expected = ""
		}
	}
	file, err := os.Create(path)
	check(err)
	encoder := json.NewEncoder(file)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	check(encoder.Encode(goldens))
}
