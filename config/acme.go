package config

type acmeBlock struct {
	block
	Name            attr[ident]           `hcl:"name,label"`
	Directory       attr[string]          `hcl:"directory" doc:"URL of the authority's directory (RFC 8555, 7.1.1)"`
	Email           attr[string]          `hcl:"email,optional" doc:"where the authority can reach you"`
	AcceptTOS       attr[bool]            `hcl:"accept_tos,optional" default:"false" doc:"that you agree to the authority's terms of service; needed"`
	CAFile          attr[string]          `hcl:"ca_file,optional" unset:"the system's authorities" doc:"PEM file with the authorities to trust for the directory itself"`
	Challenges      attr[[]string]        `hcl:"challenges,optional" unset:"both" enum:"tls-alpn-01|http-01" doc:"how the authority may verify names"`
	Manager         attr[string]          `hcl:"manager,optional" default:"autocert" enum:"autocert|advanced" doc:"what talks to the authority; advanced has DNS-01, wildcards and ARI (RFC 9773)"`
	Store           *storeBlock           `hcl:"store,block" doc:"Where accounts and certificates are kept. Replicas that share a store share what is in it. Without the block: a directory in state.path."`
	ExternalAccount *externalAccountBlock `hcl:"external_account,block" doc:"The account that the authority gave you (RFC 8555, 7.3.4)."`
}

type storeBlock struct {
	block
	Kind attr[string] `hcl:"kind,label" enum:"dir"`
	Path attr[string] `hcl:"path,optional" unset:"acme in state.path" doc:"the directory"`
}

type externalAccountBlock struct {
	block
	KeyID attr[string] `hcl:"key_id" doc:"the key's name"`
	HMAC  attr[string] `hcl:"hmac" doc:"the key, base64url; keep it in a file and write file(\"path\")"`
}

func (b *acmeBlock) label() string { return string(b.Name.Value) }
