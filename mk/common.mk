# Targets every component shares. A component's Makefile sets NAME (its binary, empty for a library)
# and includes this file; it works from the workspace and from a repository of its own.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
ROOT        := $(dir $(lastword $(MAKEFILE_LIST)))..
TOOLBIN     := $(abspath $(ROOT)/.bin)
BIN         ?= $(abspath $(ROOT)/bin)
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
export GOWORK := off
GOFLAGS_BUILD := -trimpath -buildvcs=false -ldflags '-s -w -X metacircular.net/mcdsl/cli.Version=$(VERSION)'
RACE        ?= -race
FUZZTIME    ?= 60s

.PHONY: all build test vet lint proto docker bench fuzz soak clean

all: vet lint test build

build:
ifneq ($(NAME),)
	CGO_ENABLED=0 go build $(GOFLAGS_BUILD) -o $(BIN)/$(NAME) ./cmd/$(NAME)
else
	CGO_ENABLED=0 go build ./...
endif

test:
	go test $(RACE) -timeout 15m ./...
	@if [ -d api ]; then cd api && go vet ./...; fi

vet:
	go vet ./...

lint:
	$(TOOLBIN)/golangci-lint run --config $(abspath $(ROOT)/.golangci.yaml) ./...

# Regenerates api/ from its .proto files; doing it twice gives no difference.
proto:
	@if [ -d api/proto ]; then \
	  cd $(abspath $(ROOT))/tools && GOBIN=$(TOOLBIN) go install tool; \
	  cd $(CURDIR)/api && for p in $$(find proto -name '*.proto' | sort); do \
	    protoc -I proto -I $(abspath $(ROOT))/tools/proto \
	      --plugin=$(TOOLBIN)/protoc-gen-go --plugin=$(TOOLBIN)/protoc-gen-go-grpc \
	      --plugin=$(TOOLBIN)/protoc-gen-grpc-gateway --plugin=$(TOOLBIN)/protoc-gen-openapiv2 \
	      --go_out=. --go_opt=paths=source_relative \
	      --go-grpc_out=. --go-grpc_opt=paths=source_relative \
	      --grpc-gateway_out=. --grpc-gateway_opt=paths=source_relative \
	      --openapiv2_out=. $$p; \
	  done; \
	fi

docker: build
	@echo "images are assembled from the static binary by: mcp up, mcp build"

bench:
	go test -run '^$$' -bench . -benchmem ./...

# Every fuzz target of the module, FUZZTIME each.
fuzz:
	@for pkg in $$(go list ./...); do \
	  dir=$$(go list -f '{{.Dir}}' $$pkg); \
	  for f in $$(grep -hoE '^func (Fuzz[A-Za-z0-9_]+)' $$dir/*_test.go 2>/dev/null | awk '{print $$2}'); do \
	    go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

soak:
	MC_SOAK=1 go test -timeout 60m ./...

clean:
	rm -f $(if $(NAME),$(BIN)/$(NAME),)
