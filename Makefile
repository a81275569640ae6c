# The workspace: `make up` runs the platform, `make test` proves it.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export GOWORK := off

SERVICES   := mcias metacrypt mcr mc-proxy mcns mcp mcat
COMPONENTS := mcdsl $(SERVICES)
BIN        := $(CURDIR)/bin
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LINT       := 2.15
# Where `up`, `down`, `status` and `destroy` keep the platform, and further flags for `up`.
DIR        ?= $(CURDIR)/srv
UPFLAGS    ?=

.PHONY: all build test vet lint proto docker bench fuzz soak clean up down status destroy prepare unit e2e tools

all: vet lint test build

build:
	@mkdir -p $(BIN)
	@for c in $(SERVICES); do $(MAKE) --no-print-directory -C $$c build BIN=$(BIN) VERSION=$(VERSION); done
	@ls $(BIN)

## make up: builds the binaries and brings the platform up under DIR. It answers its own questions
## (--yes), so the unseal password lies in DIR/credentials.json: for development, never for an installed platform.
up: build
	$(BIN)/mcp up --root $(DIR) --yes $(UPFLAGS)

down:
	$(BIN)/mcp down --root $(DIR)

status:
	$(BIN)/mcp status --root $(DIR)

destroy:
	$(BIN)/mcp destroy --root $(DIR) --yes $(if $(DOMAIN),--yes-delete-data=$(DOMAIN),)

## make test: everything that is proved here; .ci/run calls it.
test: prepare build unit e2e

prepare:
	@bash tools/prepare.sh

unit:
	@for c in $(COMPONENTS); do echo "== $$c"; $(MAKE) --no-print-directory -C $$c test; done

e2e: build
	cd e2e && MC_BIN=$(BIN) go test -count=1 -timeout 25m ./...

vet:
	@for c in $(COMPONENTS) e2e; do echo "== vet $$c"; (cd $$c && go vet ./...); done

lint: .bin/golangci-lint-$(LINT)
	@for c in $(COMPONENTS) e2e; do echo "== lint $$c"; (cd $$c && $(CURDIR)/.bin/golangci-lint-$(LINT) run --config $(CURDIR)/.golangci.yaml --timeout 15m ./...); done

# The linter is built once and kept by its version, outside the clone when the user has a cache folder.
.bin/golangci-lint-$(LINT):
	@mkdir -p .bin; keep="$${XDG_CACHE_HOME:-$$HOME/.cache}/metacircular/golangci-lint-$(LINT)"; \
	if [ ! -x "$$keep" ]; then mkdir -p "$$(dirname "$$keep")"; \
	  cd tools/lint && GOBIN="$$(dirname "$$keep")/build" CGO_ENABLED=0 go install tool && mv "$$(dirname "$$keep")/build/golangci-lint" "$$keep"; fi; \
	ln -sf "$$keep" "$(CURDIR)/$@"

tools:
	cd tools && GOBIN=$(CURDIR)/.bin go install tool

proto:
	@for c in $(SERVICES); do $(MAKE) --no-print-directory -C $$c proto; done

docker: build
	@echo "images are assembled from the static binaries by: mcp up"

bench fuzz soak:
	@for c in $(COMPONENTS); do echo "== $@ $$c"; $(MAKE) --no-print-directory -C $$c $@; done

clean:
	@for c in $(COMPONENTS); do $(MAKE) --no-print-directory -C $$c clean BIN=$(BIN); done
	rm -rf .bin dist
