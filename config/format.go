package config

import (
	"bytes"
	"encoding/json"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format returns a file of a configuration in the one style: HCL as `terraform
// fmt` would write it, JSON with two spaces. What it means is not looked at;
// with a syntax error the source is nil and the Diagnostics say where.
func Format(src []byte, filename string) ([]byte, *Diagnostics) {
	l := newLoader(Options{})
	l.parse([]source{{filename, src}})
	diags := l.diagnostics()
	if diags.HasErrors() {
		return nil, diags
	}
	if isJSON(filename) {
		var out bytes.Buffer
		if err := json.Indent(&out, bytes.TrimSpace(src), "", "  "); err == nil {
			return append(out.Bytes(), '\n'), diags
		}
	}
	return hclwrite.Format(src), diags
}
