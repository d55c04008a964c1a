package ftp

// An offer says what a session may see in the answer to FEAT (RFC 2389, 3).
type offer struct {
	auth bool // AUTH TLS, which leads to TLS
	data bool // PBSZ and PROT, of the gateway's own
}

// shows reports whether a feature of the backend's, a line without its leading
// space, is true of sessions through the gateway.
func (o offer) shows(line string) bool {
	name, _ := split(line)
	switch name {
	case "AUTH", "PBSZ", "PROT", "CCC", "ADAT", "MIC", "CONF", "ENC", // RFC 2228
		"SSCN", "CPSV", // TLS between two servers
		"LPRT", "LPSV", "SPSV", // other kinds of data connections
		"":
		return false
	}
	return true
}

// own returns the lines of the gateway's own features, each with its end.
func (o offer) own() string {
	lines := ""
	if o.auth {
		lines += " AUTH TLS\r\n"
	}
	if o.data {
		lines += " PBSZ\r\n PROT\r\n"
	}
	return lines
}
