package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// functions are what expressions can call: env and file of our own, the others
// as in Terraform.
func (l *loader) functions() map[string]function.Function {
	return map[string]function.Function{
		"env":  l.envFunction(),
		"file": l.fileFunction(),

		"chomp":      stdlib.ChompFunc,
		"coalesce":   coalesceFunction(),
		"compact":    stdlib.CompactFunc,
		"concat":     stdlib.ConcatFunc,
		"contains":   stdlib.ContainsFunc,
		"distinct":   stdlib.DistinctFunc,
		"element":    stdlib.ElementFunc,
		"flatten":    stdlib.FlattenFunc,
		"format":     stdlib.FormatFunc,
		"formatlist": stdlib.FormatListFunc,
		"join":       stdlib.JoinFunc,
		"jsondecode": stdlib.JSONDecodeFunc,
		"keys":       stdlib.KeysFunc,
		"length":     stdlib.LengthFunc,
		"lookup":     stdlib.LookupFunc,
		"lower":      stdlib.LowerFunc,
		"max":        stdlib.MaxFunc,
		"merge":      stdlib.MergeFunc,
		"min":        stdlib.MinFunc,
		"range":      stdlib.RangeFunc,
		"regex":      stdlib.RegexFunc,
		"replace":    stdlib.ReplaceFunc,
		"reverse":    stdlib.ReverseListFunc,
		"slice":      stdlib.SliceFunc,
		"sort":       stdlib.SortFunc,
		"split":      stdlib.SplitFunc,
		"substr":     stdlib.SubstrFunc,
		"tobool":     stdlib.MakeToFunc(cty.Bool),
		"tonumber":   stdlib.MakeToFunc(cty.Number),
		"tostring":   stdlib.MakeToFunc(cty.String),
		"trim":       stdlib.TrimFunc,
		"trimprefix": stdlib.TrimPrefixFunc,
		"trimspace":  stdlib.TrimSpaceFunc,
		"trimsuffix": stdlib.TrimSuffixFunc,
		"upper":      stdlib.UpperFunc,
		"values":     stdlib.ValuesFunc,
		"zipmap":     stdlib.ZipmapFunc,
	}
}

func (l *loader) envFunction() function.Function {
	return function.New(&function.Spec{
		Description: "The value of an environment variable. Not set, it is an error, unless a second argument says what it is then.",
		Params:      []function.Parameter{{Name: "name", Type: cty.String}},
		VarParam:    &function.Parameter{Name: "default", Type: cty.String},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if len(args) > 2 {
				return cty.DynamicVal, function.NewArgErrorf(2, "one default is enough")
			}
			name := args[0].AsString()
			if v, ok := l.getenv(name); ok {
				return cty.StringVal(v), nil
			}
			if len(args) == 2 {
				return args[1], nil
			}
			return cty.DynamicVal, fmt.Errorf("%s is not set in the environment: set it, or write what it is then: env(%q, \"…\")", name, name)
		},
	})
}

func (l *loader) fileFunction() function.Function {
	return function.New(&function.Spec{
		Description: "The text of a file, without the newline at its end. A relative path begins at the configuration.",
		Params:      []function.Parameter{{Name: "path", Type: cty.String}},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			text, err := l.readText(args[0].AsString())
			if err != nil {
				return cty.DynamicVal, err
			}
			// A secret in a file ends with a newline more often than not, and
			// never means it.
			return cty.StringVal(strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")), nil
		},
	})
}

// coalesceFunction skips empty strings too, unlike cty's, so that it can be
// used on a variable of the environment that is there and empty.
func coalesceFunction() function.Function {
	return function.New(&function.Spec{
		Description: "The first of the strings that is neither null nor empty.",
		VarParam:    &function.Parameter{Name: "strings", Type: cty.String, AllowNull: true},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			for _, v := range args {
				if !v.IsNull() && v.AsString() != "" {
					return v, nil
				}
			}
			return cty.DynamicVal, errors.New("all of them are empty: write one that is not")
		},
	})
}

// readText reads a file that the configuration names, and has it watched.
func (l *loader) readText(path string) (string, error) {
	path = l.path(path)
	info, err := os.Stat(path)
	if err != nil {
		return "", advise(err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file: name one", path)
	}
	text, err := readFile(path)
	if err != nil {
		return "", advise(err)
	}
	l.watch(path)
	if !utf8.Valid(text) {
		return "", errors.New(path + " is not UTF-8 text")
	}
	return string(text), nil
}
