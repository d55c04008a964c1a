# One static binary, the roots that backends and authorities are verified by, and
# a directory for what must outlive the container; no shell, no libc, no root.
#
#   docker build -t sallyport .
#   docker run --rm -v /etc/sallyport:/etc/sallyport:ro -p 25:25 -p 993:993 sallyport

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -o /out/sallyport ./cmd/sallyport
RUN mkdir -m 0700 /out/state

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/sallyport /sallyport
# A volume that is mounted there begins as this directory, and is the user's.
COPY --from=build --chown=65532:65532 /out/state /var/lib/sallyport
# A number, so that Kubernetes can see that it isn't root (runAsNonRoot). Docker
# lets every user of a container bind its low ports; elsewhere listen on high
# ports, or add the capability NET_BIND_SERVICE.
USER 65532:65532
# SMTP, submission, submissions, IMAP, IMAPS, an authority's questions, metrics.
EXPOSE 25 465 587 143 993 80 443 9142
ENTRYPOINT ["/sallyport"]
CMD ["run", "-c", "/etc/sallyport"]
