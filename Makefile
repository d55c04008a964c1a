# `make demo` shows the gateway at work; `make test` runs every test.
# Both do all set-up themselves and need nothing but Go.

SHELL       = /bin/bash
.SHELLFLAGS = -o pipefail -c

GO       ?= go
ARGS     ?=
FUZZTIME ?= 1m
ROUNDS   ?= 20

# The race detector needs a C compiler. Asked when a recipe runs, because
# scripts/test-setup.sh may just have installed one.
RACE = $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && echo -race)

UNIT = $(shell $(GO) list ./... | grep -vE '/(integration|packaging)$$')

.PHONY: build demo deb test setup unit integration packages fuzz bench soak fmt docs

build: ## the static binary, ./sallyport
	CGO_ENABLED=0 $(GO) build -trimpath -o sallyport ./cmd/sallyport

demo: build ## real upgrades through the gateway, no configuration; ARGS=--once ends after the table
	./sallyport demo $(ARGS)

deb: ## a package for Debian and Ubuntu in dist/; see scripts/build-deb.sh for VERSION and others
	scripts/build-deb.sh

test: ## everything; installs servers and clients where it may, and names what it skips
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory integration
	@$(MAKE) --no-print-directory packages

setup: ## what test needs, from Debian's packages
	scripts/test-setup.sh

unit: ## what needs no server (but for name servers on loopback): under a minute, offline
	$(GO) vet ./...
	GOARCH=386 $(GO) vet ./...
	$(GO) test $(RACE) -shuffle=on -count=1 -timeout=10m $(UNIT)

integration: ## the binary, with the race detector, between real servers and real clients
	mkdir -p dist
	$(GO) build $(RACE) -o dist/sallyport-test ./cmd/sallyport
	GORACE="halt_on_error=1 atexit_sleep_ms=0" SALLYPORT=$(CURDIR)/dist/sallyport-test \
		$(GO) test -v -count=1 -timeout=30m ./integration/ | grep -v '^=== '

packages: ## what is shipped around the binary, against the tools that read it
	$(GO) test -v -count=1 -timeout=10m ./packaging/ | grep -v '^=== '

fuzz: ## every fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

bench: ## every benchmark, without the race detector
	$(GO) test -run '^$$' -bench . -benchmem $(UNIT)

soak: ## unit tests ROUNDS times in ever other orders: what fails rarely fails here; and a gigabyte by FTP
	$(GO) test $(RACE) -shuffle=on -count=$(ROUNDS) -timeout=0 $(UNIT)
	SALLYPORT_BULK=1073741824 $(GO) test -v -count=1 -timeout=30m -run '^TestFileClients$$' ./integration/

fmt: ## Go and HCL
	gofmt -l -w .
	$(GO) run ./cmd/sallyport fmt examples/*

docs: ## what is generated: docs/config.md and the table of docs/security.md
	$(GO) test ./config -run '^TestDocs$$' -update
	$(GO) test . -run '^TestRules$$' -update
