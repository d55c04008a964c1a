# One static binary and the roots that backend TLS is verified by; no shell, no
# libc, no root.
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

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/sallyport /sallyport
# A number, so that Kubernetes can see that it isn't root (runAsNonRoot). Docker
# lets every user of a container bind its low ports; elsewhere listen on high
# ports, or add the capability NET_BIND_SERVICE.
USER 65532:65532
# SMTP, submission, submissions, IMAP, IMAPS, metrics.
EXPOSE 25 465 587 143 993 9142
ENTRYPOINT ["/sallyport"]
CMD ["run", "-c", "/etc/sallyport"]
