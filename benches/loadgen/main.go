// loadgen sends prepared request bodies over keep-alive HTTP connections, one request at a time on
// each, and prints one JSON object: what was sent, what came back, how long each took.
//
//	loadgen URL FILE CONNECTIONS CONTENT_TYPE [ANSWERS [RATE]]
//
// FILE holds bodies, each behind its length (u32, little-endian). ANSWERS is written after the last
// one, each body's answer in its place, in the same way. With a RATE above 0 so many are sent a second,
// evenly, and what is measured of each begins when it was due, also where no connection was free.
// An answer counts as good when its
// status is 200 and it does not contain `"error"`.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func bodies(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for len(data) >= 4 {
		size := int(binary.LittleEndian.Uint32(data))
		if len(data) < 4+size {
			return nil, fmt.Errorf("a body of %d bytes is cut at %d", size, len(data)-4)
		}
		out = append(out, data[4:4+size])
		data = data[4+size:]
	}
	return out, nil
}

func main() {
	if len(os.Args) < 5 || len(os.Args) > 7 {
		fmt.Fprintln(os.Stderr, "usage: loadgen URL FILE CONNECTIONS CONTENT_TYPE [ANSWERS [RATE]]")
		os.Exit(2)
	}
	url, kind := os.Args[1], os.Args[4]
	connections, err := strconv.Atoi(os.Args[3])
	if err != nil || connections < 1 {
		fmt.Fprintln(os.Stderr, "CONNECTIONS is a number from 1")
		os.Exit(2)
	}
	work, err := bodies(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	rate := 0
	if len(os.Args) == 7 {
		if rate, err = strconv.Atoi(os.Args[6]); err != nil || rate < 0 {
			fmt.Fprintln(os.Stderr, "RATE is a number from 0")
			os.Exit(2)
		}
	}
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true,
	}, Timeout: 60 * time.Second}
	took := make([]float64, len(work))
	answers := make([][]byte, len(work))
	var next, failed int64
	var first atomic.Value
	var group sync.WaitGroup
	started := time.Now()
	for c := 0; c < connections; c++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				i := int(atomic.AddInt64(&next, 1)) - 1
				if i >= len(work) {
					return
				}
				sent := time.Now()
				if rate > 0 {
					due := started.Add(time.Duration(i) * time.Second / time.Duration(rate))
					time.Sleep(time.Until(due))
					sent = due
				}
				answer, err := client.Post(url, kind, bytes.NewReader(work[i]))
				var text []byte
				if err == nil {
					text, err = io.ReadAll(answer.Body)
					answer.Body.Close()
				}
				took[i] = time.Since(sent).Seconds() * 1000
				answers[i] = text
				if err != nil || answer.StatusCode != 200 || bytes.Contains(text, []byte(`"error"`)) {
					atomic.AddInt64(&failed, 1)
					if err != nil {
						text = []byte(err.Error())
					}
					first.CompareAndSwap(nil, string(text))
				}
			}
		}()
	}
	group.Wait()
	seconds := time.Since(started).Seconds()
	if len(os.Args) >= 6 {
		var out bytes.Buffer
		for _, text := range answers {
			binary.Write(&out, binary.LittleEndian, uint32(len(text)))
			out.Write(text)
		}
		if err := os.WriteFile(os.Args[5], out.Bytes(), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	sort.Float64s(took)
	at := func(share float64) float64 { return took[int(share*float64(len(took)-1))] }
	complaint, _ := first.Load().(string)
	if len(complaint) > 300 {
		complaint = complaint[:300]
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"sent": len(work), "failed": failed, "seconds": seconds,
		"per_second": float64(len(work)-int(failed)) / seconds,
		"p50_ms":     at(0.5), "p99_ms": at(0.99), "first_failure": complaint,
	})
}
